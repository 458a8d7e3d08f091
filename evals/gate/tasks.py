"""The tasks of the gate, by name."""

from __future__ import annotations

from pathlib import Path

from mxmoe.evals.gate.task import Task
from mxmoe.evals.grade_school import task as grade_school
from mxmoe.evals.gsm8k import task as gsm8k
from mxmoe.reference.errors import BadInput

NAMES = (grade_school.NAME, gsm8k.NAME)


def load_task(name: str, data: Path | None = None) -> Task:
    """A task; data : where its questions are, for a task that does not ship them."""
    if name == gsm8k.NAME:
        return gsm8k.load_task(data)
    if name != grade_school.NAME:
        raise BadInput(f"task: expected {' or '.join(NAMES)}, found {name!r:.40}")
    if data is not None:
        raise BadInput(f"--data: expected none, as {name} ships its questions")
    return grade_school.load_task()
