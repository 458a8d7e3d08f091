"""The run directory of a gate at an endpoint: begun, gone on with, ended."""

from __future__ import annotations

from pathlib import Path

from mxmoe.conformance.rundir import RunWriter
from mxmoe.evals.endpoint.asking import answer_line
from mxmoe.evals.endpoint.attempts import Attempt
from mxmoe.evals.endpoint.attempts import answered
from mxmoe.evals.endpoint.attempts import resume_attempts
from mxmoe.evals.endpoint.task import EndpointTask
from mxmoe.evals.gate.answer_lines import append_answer
from mxmoe.evals.gate.answer_lines import resume_answers
from mxmoe.evals.gate.ended import end
from mxmoe.evals.gate.ended import ended
from mxmoe.evals.gate.verdict import Conclusion
from mxmoe.evals.gate.verdict import GateVerdict
from mxmoe.reference.errors import BadInput


def conclusion_before(writer: RunWriter) -> Conclusion | None:
    """The conclusion of a run that has ended and may not go on."""
    return None if writer.facts.get("goes_on") else ended(writer)


def end_or_leave(
    writer: RunWriter, conclusion: Conclusion, *, goes_on: bool
) -> Conclusion:
    """Seal the conclusion; goes_on : the same command may ask what is missing."""
    undecided = conclusion.verdict in (GateVerdict.INVALID, GateVerdict.INCONCLUSIVE)
    writer.describe(goes_on=goes_on and undecided)
    return end(writer, conclusion)


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
    if not 0 <= question < task.count:
        raise BadInput(
            f"attempts: expected one of the {task.count} questions, found {question}"
        )
    return True
