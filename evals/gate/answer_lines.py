"""``answers.jsonl`` of a run: one line a question, appended as it is answered.

A run that was killed goes on from here: a question is answered once its line is whole,
and no question is answered twice. Each line ends in a hash of what is before it, so
that no changed byte makes another score.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mxmoe.conformance.suite import whole_lines
from mxmoe.reference.errors import BadInput

FILE = "answers.jsonl"
_SUM = "sha256"


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
    facts = asdict(line)
    whole_lines.append_line(run / FILE, facts | {_SUM: _sha256(facts)})


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
        written = found.pop(_SUM, None)
        line = AnswerLine(**found)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise BadInput(f"{where}: expected an answer, found {error}") from error
    for name, kind in _KINDS.items():
        value = getattr(line, name)
        # A bool is an int to isinstance, but not a question's number.
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise BadInput(f"{where}: expected an answer, found {name} {value!r}")
    if written != _sha256(found):
        raise BadInput(f"{where}: expected an answer as written, found it changed")
    return line


def _sha256(facts: Mapping[str, Any]) -> str:
    text = json.dumps(facts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
