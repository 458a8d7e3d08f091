"""What one step says to git, and what it found.

`git bisect run` reads the exit code of its command: 0 good, 1 to 127 bad, but 125 "this
commit cannot be tested", and from 128 on it stops (git-bisect(1)). So a wrong option
must not end in the usual 2: git would call the commit bad.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from mxmoe.evals.bisect.signature import Signature


class StepCode(IntEnum):
    """Exit codes of `mxmoe bisect-step`."""

    GOOD = 0
    BAD = 1
    SKIP = 125
    ABORT = 128  # infrastructure
    USAGE = 129
    INTERRUPTED = 130

    @property
    def word(self) -> str:
        """For people."""
        return _WORDS[self]


_WORDS = {
    StepCode.GOOD: "good",
    StepCode.BAD: "bad",
    StepCode.SKIP: "cannot be tested",
    StepCode.ABORT: "aborted",
    StepCode.USAGE: "aborted",
    StepCode.INTERRUPTED: "interrupted",
}


class Abort(Exception):
    """The search must stop: nothing was learnt about the commit; str() says why."""

    def __init__(self, reason: str, code: StepCode = StepCode.ABORT) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True, kw_only=True)
class Found:
    """One judgement of one commit.

    code : GOOD, BAD or SKIP. signatures : of everything that failed.
    score : correct answers of those asked, where the score was judged.
    """

    code: StepCode
    reason: str
    signatures: tuple[Signature, ...] = ()
    score: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Step:
    """What all judgements of one commit come to.

    runs : the judgements, in order. flaky : whether they disagreed.
    """

    code: StepCode
    reason: str
    runs: tuple[Found, ...] = ()
    flaky: bool = False

    def as_json(self) -> dict[str, Any]:
        """For JSON."""
        last = self.runs[-1] if self.runs else None
        return {
            "code": int(self.code),
            "verdict": self.code.word,
            "reason": self.reason,
            "flaky": self.flaky,
            "runs": [run.code.word for run in self.runs],
            "signatures": [s.as_json() for s in last.signatures] if last else [],
            "score": last.score if last else None,
        }
