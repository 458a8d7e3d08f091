"""The run directory of a gate at an endpoint: begun, gone on with, ended."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mxmoe.conformance.rundir import RunWriter
from mxmoe.conformance.rundir import describe_machine
from mxmoe.conformance.rundir import open_run
from mxmoe.evals.endpoint.asking import answer_line
from mxmoe.evals.endpoint.attempts import Attempt
from mxmoe.evals.endpoint.attempts import answered
from mxmoe.evals.endpoint.attempts import resume_attempts
from mxmoe.evals.endpoint.task import EndpointTask
from mxmoe.evals.gate.answer_lines import append_answer
from mxmoe.evals.gate.answer_lines import resume_answers
from mxmoe.evals.gate.verdict import Conclusion
from mxmoe.evals.gate.verdict import GateVerdict
from mxmoe.reference.errors import BadInput


def begin_or_reopen(folder: Path, options: Mapping[str, Any]) -> RunWriter:
    """The writer of a new run, or of one with the same options; else `BadInput`."""
    if not (folder / "run.json").exists():
        writer = open_run(folder)
        writer.describe(command="gate", options=dict(options), **describe_machine())
        return writer
    writer = RunWriter.reopen(folder)
    before = writer.facts.get("options")
    if before != options:
        raise BadInput(
            f"{folder}: expected an empty folder or a run of these options, "
            f"found one of {before}"
        )
    return writer


def conclusion_before(writer: RunWriter) -> Conclusion | None:
    """The conclusion of a run that has ended and may not go on."""
    if "verdict" not in writer.facts or writer.facts.get("goes_on"):
        return None
    verdict = GateVerdict(writer.facts["verdict"])
    return Conclusion(verdict, tuple(writer.facts["reasons"]))


def end(writer: RunWriter, conclusion: Conclusion, *, goes_on: bool) -> Conclusion:
    """Write the conclusion; goes_on : the same command may ask what is missing."""
    writer.describe(
        verdict=str(conclusion.verdict),
        reasons=list(conclusion.reasons),
        goes_on=goes_on,
    )
    return conclusion


def resume(folder: Path, task: EndpointTask) -> list[Attempt]:
    """The attempts of an earlier writer; afterwards each answer has its line.

    An answer that had come but had not been counted when the writer was killed gets
    its line now. Raises `BadInput` where a line is not what its attempt says: one of
    the two files was damaged.
    """
    attempts = resume_attempts(folder)
    lines = resume_answers(folder)
    came = {
        attempt.question: answer_line(task, attempt, reply)
        for attempt, reply in answered(attempts)
        if _asked(attempt.question, task)
    }
    for question, line in lines.items():
        if came.get(question) != line:
            raise BadInput(
                f"{folder}: expected answers as the attempts have them, found another "
                f"of question {question}"
            )
    for question, line in came.items():
        if question not in lines:
            append_answer(folder, line)
    return attempts


def _asked(question: int, task: EndpointTask) -> bool:
    if not 0 <= question < len(task.prompts):
        raise BadInput(
            f"attempts: expected one of the {len(task.prompts)} questions, "
            f"found {question}"
        )
    return True
