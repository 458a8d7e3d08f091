"""``attempts.jsonl`` of a run: every attempt at every question, as it ended.

A whole answer stands here before it counts, so that a run that was killed in between
takes it from here: an answered question is not asked again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from collections.abc import Iterator
from dataclasses import asdict
from dataclasses import dataclass
from dataclasses import fields
from pathlib import Path
from typing import Any

from mxmoe.conformance.suite import whole_lines
from mxmoe.evals.endpoint.reply import Reply
from mxmoe.reference.errors import BadInput

FILE = "attempts.jsonl"
ANSWERED = "answered"
CANCELLED = "cancelled"  # in flight when the run was decided


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One request.

    number : 1 for a question's first attempt. started : UTC. seconds : until it ended.
    outcome : "answered", "cancelled" or a `Trouble`; said : why there is no answer.
    status : of HTTP, where it was an error. reply : the answer.
    """

    question: int
    number: int
    started: str
    seconds: float
    outcome: str
    said: str = ""
    status: int | None = None
    reply: Reply | None = None


def append_attempt(run: Path, attempt: Attempt) -> None:
    """Append the line of an attempt."""
    whole_lines.append_line(run / FILE, asdict(attempt))


def resume_attempts(run: Path) -> list[Attempt]:
    """The whole lines of an earlier writer; its torn one is cut off."""
    whole_lines.cut_torn_line(run / FILE)
    return read_attempts(run)


def read_attempts(run: Path) -> list[Attempt]:
    """All attempts in the order they ended; `BadInput` for other lines."""
    path = run / FILE
    if not path.exists():
        return []
    lines = whole_lines.whole_lines(path, "attempts")
    return [_read_line(text, where) for where, text in lines]


def answered(attempts: Iterable[Attempt]) -> Iterator[tuple[Attempt, Reply]]:
    """Those that brought an answer; `BadInput` for a question that has two."""
    seen: set[int] = set()
    for attempt in attempts:
        if attempt.reply is not None:
            if attempt.question in seen:
                raise BadInput(
                    f"{FILE}: expected one answer a question, "
                    f"found another of question {attempt.question}"
                )
            seen.add(attempt.question)
            yield attempt, attempt.reply


_KINDS: dict[str, Any] = {
    "int": int,
    "str": str,
    "float": int | float,
    "int | None": int | None,
    "str | None": str | None,
    "Reply | None": Reply | None,
}


def _read_line(text: bytes, where: str) -> Attempt:
    try:
        found = json.loads(text)
        reply = found["reply"]
        if reply is not None:
            found["reply"] = _checked(Reply(**reply))
        attempt: Attempt = _checked(Attempt(**found))
        if (attempt.reply is not None) is not (attempt.outcome == ANSWERED):
            raise ValueError(f"outcome {attempt.outcome!r:.40} and its reply")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise BadInput(f"{where}: expected an attempt, found {error}") from error
    return attempt


def _checked(line: Any) -> Any:
    for field in fields(line):
        value = getattr(line, field.name)
        # A bool is an int to isinstance, but no number here.
        if isinstance(value, bool) or not isinstance(value, _KINDS[str(field.type)]):
            raise ValueError(f"{field.name} {value!r:.80}")
    return line
