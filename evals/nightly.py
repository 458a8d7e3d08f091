"""``python -m mxmoe.evals.nightly RUNS``: one night, in a new folder below RUNS.

Runs the commands that a person would, one after the other, each in a process of its
own: the suite, the gate with all questions, teacher forcing, the comparison with the
first nights, the history of all nights and the page. A step that fails or hangs does
not stop those after it. Exit code: 1 if a step failed, else 3 if one was invalid, did
not start or did not end, else 4 if one was inconclusive, else 0.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from mxmoe.conformance.rundir import new_run_id
from mxmoe.conformance.rundir import open_run
from mxmoe.conformance.suite.run_facts import now
from mxmoe.conformance.verdict import ExitCode
from mxmoe.evals.gate.cusum import LEAST_BASELINE
from mxmoe.evals.history.scan import Row
from mxmoe.evals.history.scan import scan

# Of the bundled candidates those that run on every machine.
CANDIDATES = ("torch_dense", "trtllm_gen")
STEPS = ("check", "gate", "teacher-forced", "compare", "history", "report")
# Two suites that reach it leave 50 of the workflow's 350 minutes for all else.
STEP_MINUTES = 150.0
_SKIPPED = "skipped"
Run = Callable[[Sequence[str]], int]


@dataclass(frozen=True)
class Step:
    """One command: its name in the summary, and the arguments of `mxmoe`, or why it is
    left out.
    """

    name: str
    arguments: tuple[str, ...] = ()
    skipped: str = ""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a night does: only : of `STEPS`. early : the gate may stop when its verdict
    is certain; such a run has no score that could be compared.
    """

    candidates: Sequence[str] = CANDIDATES
    profile: str = "nightly"
    only: Sequence[str] = STEPS
    early: bool = False


def main(
    runs: Annotated[Path, typer.Argument(help="folder of all nights")],
    candidate: Annotated[
        list[str] | None,
        typer.Option("--candidate", "-c", help="repeatable; default: the bundled ones"),
    ] = None,
    profile: Annotated[
        str, typer.Option(help="of mxmoe check: dev, ci, gpu or nightly")
    ] = "nightly",
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STEP", help=f"repeatable, of {', '.join(STEPS)}; default: all"
        ),
    ] = None,
    early: Annotated[
        bool,
        typer.Option(
            "--early",
            help="the gate stops when its verdict is certain: minutes less, but no "
            "score for compare and history",
        ),
    ] = False,
    step_minutes: Annotated[
        float, typer.Option(min=0.01, help="a step that takes longer is ended")
    ] = STEP_MINUTES,
) -> None:
    """Run one night.

    Exit codes: 0 pass; 1 a step failed; 2 usage or bad input; 3 a step was invalid or
    did not end; 4 one was inconclusive.
    """
    for name in only or ():
        if name not in STEPS:
            typer.echo(f"--only: expected {', '.join(STEPS)}, found {name!r:.80}")
            raise typer.Exit(int(ExitCode.USAGE))
    asked = Asked(
        candidates=candidate or CANDIDATES,
        profile=profile,
        only=only or STEPS,
        early=early,
    )

    def run(arguments: Sequence[str]) -> int:
        return _mxmoe(arguments, seconds=60 * step_minutes)

    raise typer.Exit(int(run_night(runs, asked, run=run)))


def run_night(
    runs: Path, asked: Asked, *, run: Run, say: Callable[[str], None] = typer.echo
) -> ExitCode:
    """Every step in order; `run` takes arguments of `mxmoe` and returns its code.

    What is known so far stands in the night's run.json after each step.
    """
    night = runs / new_run_id()
    writer = open_run(night)
    writer.describe(command="nightly", started=now(), candidates=list(asked.candidates))
    found: list[tuple[str, int | None, str]] = []
    for step in _steps(runs, night, asked):
        if step.skipped:
            found.append((step.name, None, step.skipped))
        else:
            say(f"== {step.name}: mxmoe {' '.join(step.arguments)}")
            found.append((step.name, run(step.arguments), ""))
        writer.describe(
            steps=[{"name": n, "exit_code": c, "skipped": why} for n, c, why in found]
        )
    codes = [code for _, code, _ in found if code is not None]
    for name, code, why in found:
        say(f"{name:<24} {_SKIPPED + ': ' + why if code is None else _named(code)}")
    worst = worst_of(codes)
    writer.describe(verdict=worst.name.lower())
    say(f"night {night}: {worst.name}")
    return worst


def worst_of(codes: Sequence[int]) -> ExitCode:
    """One exit code for all: a failure before what could not be judged."""
    if ExitCode.FAIL in codes:
        return ExitCode.FAIL
    # A usage error of a step is a fault of this file or of the machine, not a verdict.
    if any(code not in (ExitCode.PASS, ExitCode.INCONCLUSIVE) for code in codes):
        return ExitCode.INVALID
    return ExitCode.INCONCLUSIVE if ExitCode.INCONCLUSIVE in codes else ExitCode.PASS


def _steps(runs: Path, night: Path, asked: Asked) -> Iterator[Step]:
    """Made one by one: the comparison needs what the gate has just written."""
    for number, spec in enumerate(asked.candidates):
        here = night / f"candidate-{number}"
        for step in _steps_of(runs, here, spec, asked):
            if step.name.partition(" ")[0] in asked.only:
                yield step
    if "history" in asked.only:
        yield Step("history", ("history", str(runs)))
    if "report" in asked.only:
        yield _report(night)


def _steps_of(runs: Path, here: Path, spec: str, asked: Asked) -> Iterator[Step]:
    """Those of one candidate."""
    given, at = ("--candidate", spec), "--run-dir"
    until = () if asked.early else ("--full",)
    yield Step(
        f"check {spec}",
        ("check", *given, "--profile", asked.profile, at, str(here / "check")),
    )
    yield Step(f"gate {spec}", ("gate", *given, *until, at, str(here / "gate")))
    yield Step(
        f"teacher-forced {spec}",
        ("teacher-forced", *given, at, str(here / "teacher-forced")),
    )
    if "compare" in asked.only:
        yield _compare(runs, here, spec)


def _report(night: Path) -> Step:
    if "report" not in metadata.entry_points(group="mxmoe.commands").names:
        return Step("report", skipped="this version has no mxmoe report")
    pages = [str(path.parent) for path in sorted(night.glob("*/*/run.json"))]
    if not pages:
        return Step("report", skipped="no step left a run directory")
    return Step("report", ("report", *pages, "--out", str(night / "report")))


def _compare(runs: Path, here: Path, spec: str) -> Step:
    name = f"compare {spec}"
    mine = (here / "gate").relative_to(runs).as_posix()
    rows = scan(runs).rows
    tonight = [row for row in rows if row.folder == mine]
    if not tonight or not _scored(tonight[0]):
        return Step(name, skipped="the gate left no score")
    before = [
        str(runs / row.folder)
        for row in rows
        if row.configuration == tonight[0].configuration
        and _scored(row)
        and row.folder != mine
    ]
    if not before:
        return Step(name, skipped="this is the first night")
    out = str(here / "compare")
    folders = (*before[:LEAST_BASELINE], str(here / "gate"))
    return Step(name, ("compare", *folders, "--out", out))


def _scored(row: Row) -> bool:
    return row.answered == row.asked and row.verdict in ("pass", "fail")


def _named(code: int) -> str:
    if code < 0:
        return f"killed by signal {-code}: it did not end in time, or crashed"
    known = code in set(ExitCode)
    return ExitCode(code).name.lower() if known else f"ended with code {code}"


def _mxmoe(arguments: Sequence[str], *, seconds: float) -> int:
    """Its exit code; -9 if it did not end and was killed, with all that it started."""
    command = [sys.executable, "-m", "mxmoe.conformance.commands.main", *arguments]
    with subprocess.Popen(command, start_new_session=True) as process:
        try:
            return process.wait(seconds)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
        return process.wait()


if __name__ == "__main__":
    typer.run(main)
