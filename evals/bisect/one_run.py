"""One judgement, in a forked process: nothing of it is left for the next.

The fork has everything imported that the harness needs, and nothing of the candidate.
It may crash, hang or call `os._exit`; what it found stands in the run directory.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mxmoe.conformance.rundir import RunWriter
from mxmoe.conformance.rundir import VerdictLine
from mxmoe.conformance.rundir import open_run
from mxmoe.conformance.verdict import Failure
from mxmoe.evals.bisect.tree import Tree
from mxmoe.evals.bisect.tree import forget_other_commits
from mxmoe.evals.bisect.tree import strays
from mxmoe.reference.errors import BadInput

Predicate = Callable[[Path], None]
"""Judges the candidate of the current tree into an absent run directory.

Raises `BadInput` where the candidate cannot be loaded.
"""

REFUSED, BROKEN, STRAYS, FINISHED = "refused", "broken", "strays", "bisect_finished"
"""What a run's ``run.json`` says besides: why the candidate was not judged, how the
harness itself failed, modules that are not of this commit, and that it got to the end.
"""

_FORK = multiprocessing.get_context("fork")
# From asking a process group to end to not asking any more.
_GRACE_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How the process ended: code < 0 by that signal; None if it ran out of time."""

    code: int | None
    seconds: float


def run_once(
    predicate: Predicate,
    tree: Tree,
    folder: Path,
    *,
    paths: tuple[str, ...] = (),
    time_limit: float,
) -> Ended:
    """Run `predicate` on `tree` into the run directory `folder`, with a time limit.

    paths : folders of the tree that are put on the module search path. What is printed
    goes to ``<folder>.log``.
    """
    process = _FORK.Process(target=_child, args=(predicate, tree, folder, paths))
    process.start()
    try:
        process.join(time_limit)
        code = process.exitcode
    finally:
        _end_group(process)
    return Ended(code=code, seconds=time_limit)


def _end_group(process: Any) -> None:
    """Whatever the process started ends with it."""
    assert process.pid is not None
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        if process.exitcode is None:
            process.join(_GRACE_SECONDS)


def _child(
    predicate: Predicate, tree: Tree, folder: Path, paths: tuple[str, ...]
) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with folder.with_name(f"{folder.name}.log").open("wb") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    forget_other_commits(folder.with_name(f"{folder.name}.cache"))
    os.chdir(tree.top)
    sys.path[:0] = [str(tree.top / path) for path in paths]
    before = set(sys.modules)
    facts: dict[str, Any] = {FINISHED: True}
    first_call: BaseException | None = None
    try:
        predicate(folder)
    except BadInput as error:
        facts[REFUSED] = str(error).replace(f"{tree.top}/", "")
        first_call = error.__cause__
    except Exception as error:
        traceback.print_exc()
        facts[BROKEN] = f"{type(error).__name__}: {error}"
    facts[STRAYS] = strays(tree, before)
    begun = (folder / "run.json").exists()
    writer = RunWriter.reopen(folder) if begun else open_run(folder)
    if isinstance(first_call, Failure):
        _write_first_call(writer, first_call)
    writer.describe(**facts)


def _write_first_call(writer: RunWriter, failure: Failure) -> None:
    """A candidate that loads, and fails when it is called: a verdict on the commit."""
    writer.verdict(
        VerdictLine(
            check="bisect::first_call",
            candidate="",
            level="",
            verdict=failure.verdict,
            text=f"candidate · first call\n{failure.text}",
        )
    )
