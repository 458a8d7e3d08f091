"""``python -m mxmoe.evals.nightly RUNS``: one night, in a new folder below RUNS.

Runs the commands that a person would, one after the other, each in a process of its
own: the suite, the gate with all questions, teacher forcing, the comparison with the
first nights, the history of all nights and the page. A step that fails does not stop
those after it. Exit code: 1 if a step failed, else 3 if one was invalid or did not
start, else 4 if one was inconclusive, else 0.
"""

from __future__ import annotations

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

from mxmoe.conformance.run_facts import now
from mxmoe.conformance.rundir import new_run_id
from mxmoe.conformance.rundir import open_run
from mxmoe.conformance.verdict import ExitCode
from mxmoe.evals.gate.cusum import LEAST_BASELINE
from mxmoe.evals.history.scan import Row
from mxmoe.evals.history.scan import scan

# Of the bundled candidates those that run on every machine.
CANDIDATES = ("torch_dense", "trtllm_gen")
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


def main(
    runs: Annotated[Path, typer.Argument(help="folder of all nights")],
    candidate: Annotated[
        list[str] | None,
        typer.Option("--candidate", "-c", help="repeatable; default: the bundled ones"),
    ] = None,
    profile: Annotated[
        str, typer.Option(help="of mxmoe check: dev, ci, gpu or nightly")
    ] = "nightly",
) -> None:
    """Run one night."""
    code = run_night(runs, candidate or CANDIDATES, profile=profile, run=_mxmoe)
    raise typer.Exit(int(code))


def run_night(
    runs: Path,
    candidates: Sequence[str],
    *,
    profile: str,
    run: Run,
    say: Callable[[str], None] = typer.echo,
) -> ExitCode:
    """Every step in order; `run` takes arguments of `mxmoe` and returns its code."""
    night = runs / new_run_id()
    writer = open_run(night)
    writer.describe(command="nightly", started=now(), candidates=list(candidates))
    found: list[tuple[str, int | None, str]] = []
    for step in _steps(runs, night, candidates, profile):
        if step.skipped:
            found.append((step.name, None, step.skipped))
        else:
            say(f"== {step.name}: mxmoe {' '.join(step.arguments)}")
            found.append((step.name, run(step.arguments), ""))
    codes = [code for _, code, _ in found if code is not None]
    for name, code, why in found:
        say(f"{name:<24} {_SKIPPED + ': ' + why if code is None else _named(code)}")
    worst = worst_of(codes)
    writer.describe(
        steps=[{"name": n, "exit_code": c, "skipped": why} for n, c, why in found],
        verdict=worst.name.lower(),
    )
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


def _steps(
    runs: Path, night: Path, candidates: Sequence[str], profile: str
) -> Iterator[Step]:
    """Made one by one: the comparison needs what the gate has just written."""
    for number, spec in enumerate(candidates):
        here = night / f"candidate-{number}"
        given = ("--candidate", spec)
        at = ("--run-dir",)
        yield Step(
            f"check {spec}",
            ("check", *given, "--profile", profile, *at, str(here / "check")),
        )
        yield Step(f"gate {spec}", ("gate", *given, "--full", *at, str(here / "gate")))
        yield Step(
            f"teacher-forced {spec}",
            ("teacher-forced", *given, *at, str(here / "teacher-forced")),
        )
        yield _compare(runs, here, spec)
    yield Step("history", ("history", str(runs)))
    pages = [str(path.parent) for path in sorted(night.glob("*/*/run.json"))]
    if "report" not in metadata.entry_points(group="mxmoe.commands").names:
        yield Step("report", skipped="this version has no mxmoe report")
    elif not pages:
        yield Step("report", skipped="no step left a run directory")
    else:
        yield Step("report", ("report", *pages, "--out", str(night / "report")))


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
    known = code in set(ExitCode)
    return ExitCode(code).name.lower() if known else f"ended with code {code}"


def _mxmoe(arguments: Sequence[str]) -> int:
    command = [sys.executable, "-m", "mxmoe.conformance.commands.main", *arguments]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    typer.run(main)
