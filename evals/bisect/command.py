"""The command that judges a commit, run as git would, and what its exit code means."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path

from mxmoe.conformance.commands.main import main
from mxmoe.evals.bisect.git import clean_environment
from mxmoe.evals.bisect.step_code import Abort
from mxmoe.evals.bisect.step_code import StepCode
from mxmoe.evals.bisect.warm import import_what_a_judgement_needs
from mxmoe.reference.errors import BadInput

OURS = ("mxmoe", "bisect-step")
# A step that is told to end removes its working trees and processes.
_GRACE_SECONDS = 5.0


def meant_from_here(command: Sequence[str], here: Path) -> tuple[str, ...]:
    """`command` as it can be run from another folder; `BadInput` if it cannot.

    A program with a path that exists where the user stands is that one: it is no part
    of the bisected tree.
    """
    if not command:
        raise BadInput("bisect: expected -- and a command after GOOD and BAD")
    if tuple(command[:2]) == OURS:
        return tuple(command)  # run here, wherever the program is
    program = command[0]
    if "/" in program and (here / program).exists():
        return (str((here / program).resolve()), *command[1:])
    if "/" not in program and shutil.which(program) is None:
        raise BadInput(f"{program}: expected a program on the path, found none")
    return tuple(command)


def run_command(
    command: Sequence[str],
    folder: Path,
    log: Path,
    *,
    environment: Mapping[str, str],
    seconds: float | None,
) -> StepCode:
    """Run `command` in `folder` and read its exit code as `git bisect run` does.

    A code that git takes for bad is bad; no end within `seconds` cannot be tested.
    Raises `Abort` for one of 128 and more, and for a command that does not run.
    """
    here = tuple(command[:2]) == OURS
    run = _forked if here else _started
    try:
        code = run(command, folder, log, environment, seconds)
    except subprocess.TimeoutExpired:
        return StepCode.SKIP
    except OSError as error:
        raise Abort(f"{command[0]}: expected it to run, found {error}") from error
    if code in (126, 127):
        raise Abort(f"{command[0]}: cannot be run (exit code {code}); see {log}")
    if code < 0:
        raise Abort(f"{command[0]}: ended by signal {-code}; see {log}")
    if code >= StepCode.ABORT:
        raise Abort(f"exit code {code}; see {log}")
    if code in (StepCode.GOOD, StepCode.SKIP):
        return StepCode(code)
    return StepCode.BAD


def _started(
    command: Sequence[str],
    folder: Path,
    log: Path,
    environment: Mapping[str, str],
    seconds: float | None,
) -> int:
    with log.open("wb") as output:
        process = subprocess.Popen(
            list(command),
            cwd=folder,
            env=clean_environment() | dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return process.wait(seconds)
        finally:
            if process.poll() is None:
                _signal_group(process.pid, signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_GRACE_SECONDS)
            _signal_group(process.pid, signal.SIGKILL)
            process.wait()


def _forked(
    command: Sequence[str],
    folder: Path,
    log: Path,
    environment: Mapping[str, str],
    seconds: float | None,
) -> int:
    """Our own step needs no new interpreter: its imports are here already."""
    import_what_a_judgement_needs()
    process = multiprocessing.get_context("fork").Process(
        target=_step, args=(tuple(command), folder, log, dict(environment))
    )
    process.start()
    assert process.pid is not None
    try:
        process.join(seconds)
        if process.exitcode is None:
            raise subprocess.TimeoutExpired(list(command), seconds or 0.0)
        return process.exitcode
    finally:
        if process.exitcode is None:
            _signal_group(process.pid, signal.SIGTERM)
            process.join(_GRACE_SECONDS)
        _signal_group(process.pid, signal.SIGKILL)
        process.join()


def _step(
    command: tuple[str, ...], folder: Path, log: Path, environment: Mapping[str, str]
) -> None:
    os.setsid()
    with log.open("wb") as output:
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
    os.chdir(folder)
    for name in set(os.environ) - set(clean_environment()):
        del os.environ[name]
    os.environ.update(environment)
    sys.argv = list(command)
    main(list(command[1:]))


def _signal_group(leader: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)
