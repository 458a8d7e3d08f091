"""From what a run showed to one of four verdicts, with the reasons in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from mxmoe.conformance.verdict import ExitCode
from mxmoe.conformance.verdict import Failure
from mxmoe.evals.gate.evidence import DELTA
from mxmoe.evals.gate.evidence import Decision
from mxmoe.evals.gate.evidence import Reason
from mxmoe.evals.gate.evidence import Standing
from mxmoe.evals.gate.floor import Cause
from mxmoe.evals.gate.floor import highest_accuracy
from mxmoe.evals.gate.floor import likely_cause
from mxmoe.evals.gate.rule import Rule


class GateVerdict(StrEnum):
    """Only PASS and FAIL are about the candidate."""

    PASS = "pass"
    FAIL = "fail"
    INVALID = "invalid"  # another protocol, or the candidate did not run
    INCONCLUSIVE = "inconclusive"  # stopped before it was decided

    @property
    def exit_code(self) -> ExitCode:
        """What `mxmoe gate` exits with."""
        return ExitCode[self.name]


@dataclass(frozen=True)
class Conclusion:
    """reasons : sentences, the one that decides first."""

    verdict: GateVerdict
    reasons: tuple[str, ...]


def conclude(
    rule: Rule,
    standing: Standing,
    *,
    other_protocol: Sequence[str] = (),
    did_not_run: str | None = None,
    failure: Failure | None = None,
    complaints: Sequence[str] = (),
) -> Conclusion:
    """The verdict on a run.

    other_protocol : differences from the reference's. did_not_run : why the candidate's
    calls do not prove that it ran. failure : what the candidate did instead of
    answering. complaints : signs of broken numerics beside the score.

    A failed candidate fails whatever its score. A run that would pass with complaints
    is invalid: a score from answers that were cut or repeat is none.
    """
    if other_protocol:
        reasons = [f"other protocol: {line}" for line in other_protocol]
        return Conclusion(GateVerdict.INVALID, tuple(reasons))
    if failure is not None:
        return Conclusion(GateVerdict.FAIL, (failure.text, *complaints))
    if did_not_run is not None:
        return Conclusion(GateVerdict.INVALID, (did_not_run,))
    score = f"{standing.correct} of {standing.answered} correct"
    if standing.decision is Decision.GO_ON:
        left = f"{score}: stopped before the verdict was decided"
        return Conclusion(GateVerdict.INCONCLUSIVE, (left, *complaints))
    decided = f"{score}; {_why(rule, standing)}"
    if standing.decision is Decision.FAIL:
        return Conclusion(GateVerdict.FAIL, (decided, _cause(standing), *complaints))
    if complaints:
        return Conclusion(GateVerdict.INVALID, (*complaints, decided))
    return Conclusion(GateVerdict.PASS, (decided,))


def _why(rule: Rule, standing: Standing) -> str:
    needed = f"{rule.least_correct} of {rule.asked} pass"
    if standing.reason is Reason.ALL_ASKED:
        return needed
    if standing.reason is Reason.CURTAILED:
        return f"{needed}, and no answer that is out could change the verdict"
    return f"{needed}, and going on changes the verdict in 1 of {1 / DELTA:.0f} at most"


def _cause(standing: Standing) -> str:
    if likely_cause(standing.correct, standing.answered) is Cause.REGRESSION:
        return "regression: the model answers, but worse than the rule allows"
    most = 100 * highest_accuracy(standing.correct, standing.answered)
    return (
        "broken numerics: no better than repeating the question's last number "
        f"(accuracy at most {most:.0f} % at 95 % confidence)"
    )
