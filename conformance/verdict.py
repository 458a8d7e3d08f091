"""What a check can conclude, and what a command exits with."""

from __future__ import annotations

from enum import IntEnum
from enum import StrEnum


class Verdict(StrEnum):
    """The outcome of one check on one candidate."""

    OK = "ok"
    MISMATCH = "mismatch"
    NONFINITE = "nonfinite"
    CRASH = "crash"
    TIMEOUT = "timeout"
    UNSUPPORTED = "unsupported"  # cites a declared capability
    NOT_RUN = "not run"  # says why
    EXPECTED_FAILURE = "expected failure"  # cites an issue; no pass either
    QUALITY_NOTE = "quality note"  # passes; a public convention differs

    @property
    def failed(self) -> bool:
        """Whether this outcome speaks against the candidate."""
        return self in _FAILURES

    @property
    def judged(self) -> bool:
        """Whether this counts as a judgement; the rest never counts as passed."""
        return self not in _NOT_JUDGED


_FAILURES = frozenset(
    {Verdict.MISMATCH, Verdict.NONFINITE, Verdict.CRASH, Verdict.TIMEOUT}
)
_NOT_JUDGED = frozenset(
    {Verdict.UNSUPPORTED, Verdict.NOT_RUN, Verdict.EXPECTED_FAILURE}
)


class ExitCode(IntEnum):
    """Exit codes of every mxmoe command."""

    PASS = 0
    FAIL = 1
    USAGE = 2  # usage or bad input
    INVALID = 3  # infrastructure, protocol, or the candidate did not run
    INCONCLUSIVE = 4


class Failure(AssertionError):
    """A check failed; `text` is what a person reads, biggest fact first."""

    def __init__(self, verdict: Verdict, text: str) -> None:
        super().__init__(text)
        self.verdict = verdict
        self.text = text


class NotJudged(Exception):
    """A check cannot be made of this candidate; `reason` says why, in one sentence."""

    def __init__(self, verdict: Verdict, reason: str) -> None:
        super().__init__(reason)
        self.verdict = verdict
        self.reason = reason


def unsupported(capability: str) -> NotJudged:
    """The candidate declared that it does not do this."""
    return NotJudged(Verdict.UNSUPPORTED, f"capability {capability}")


def not_run(reason: str) -> NotJudged:
    """The check needs something that is not there."""
    return NotJudged(Verdict.NOT_RUN, reason)
