"""``answers.jsonl`` of a run: one line a question, appended as it is answered.

A run that was killed goes on from here: a question is answered once its line is whole,
and no question is answered twice.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from dataclasses import dataclass
from pathlib import Path

from mxmoe.conformance import whole_lines
from mxmoe.reference.errors import BadInput

FILE = "answers.jsonl"


@dataclass(frozen=True, kw_only=True)
class AnswerLine:
    """One answered question.

    question : its number in the task. prompt_sha256 : of the prompt that was sent.
    tokens : that the model wrote, its end token not counted. finish_reason : "stop"
    at the end token, "length" where the limit cut the answer. finite : whether all
    logits behind the answer were. seconds : from the question's batch to its end.
    """

    question: int
    prompt_sha256: str
    text: str
    extracted: str
    correct: bool
    tokens: int
    finish_reason: str
    finite: bool
    seconds: float


def append_answer(run: Path, line: AnswerLine) -> None:
    """Append the line of a question."""
    whole_lines.append_line(run / FILE, asdict(line))


def resume_answers(run: Path) -> dict[int, AnswerLine]:
    """The whole lines of an earlier writer, by question; its torn one is cut off."""
    whole_lines.cut_torn_line(run / FILE)
    return read_answers(run)


def read_answers(run: Path) -> dict[int, AnswerLine]:
    """The answered questions; `BadInput` for other lines and for doubled questions."""
    path = run / FILE
    found: dict[int, AnswerLine] = {}
    if not path.exists():
        return found
    for where, text in whole_lines.whole_lines(path, "answer lines"):
        line = _read_line(text, where)
        if line.question in found:
            raise BadInput(
                f"{where}: expected one answer a question, "
                f"found another of question {line.question}"
            )
        found[line.question] = line
    return found


_KINDS: dict[str, type | tuple[type, ...]] = {
    "question": int,
    "prompt_sha256": str,
    "text": str,
    "extracted": str,
    "correct": bool,
    "tokens": int,
    "finish_reason": str,
    "finite": bool,
    "seconds": (int, float),
}


def _read_line(text: bytes, where: str) -> AnswerLine:
    try:
        found = json.loads(text)
        line = AnswerLine(**found)
    except (ValueError, TypeError, RecursionError) as error:
        raise BadInput(f"{where}: expected an answer, found {error}") from error
    for name, kind in _KINDS.items():
        value = getattr(line, name)
        # A bool is an int to isinstance, but not a question's number.
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise BadInput(f"{where}: expected an answer, found {name} {value!r}")
    return line
