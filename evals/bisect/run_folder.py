"""The run directory of a bisection: begun, or gone on with."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from mxmoe.conformance.rundir import RunWriter
from mxmoe.conformance.rundir import describe_machine
from mxmoe.conformance.rundir import open_run
from mxmoe.evals.bisect.drive import Asked
from mxmoe.reference.errors import BadInput


def run_folder(folder: Path, asked: Asked) -> RunWriter:
    """The writer of `folder`; `BadInput` if it holds a run that asked something else.

    run.json        what was asked, and what it came to
    steps.jsonl     one line a commit, as it was judged
    lesson.json     what the ends taught, see `lesson`
    bisect.log      what `git bisect replay` reads
    steps/          the run directories of `mxmoe bisect-step`
    <commit>-*.log  what COMMAND printed
    """
    facts = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in asdict(asked).items()
    } | {"command": list(asked.command)}
    if not (folder / "run.json").exists():
        writer = open_run(folder)
        writer.describe(command="bisect", asked=facts, **describe_machine())
        return writer
    writer = RunWriter.reopen(folder)
    if writer.facts.get("asked") != facts:
        raise BadInput(
            f"{folder}: expected an empty folder or a bisection that asked the same, "
            f"found one that asked {writer.facts.get('asked')}"
        )
    return writer
