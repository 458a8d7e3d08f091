"""When enough questions are answered: certainty, and evidence about this very run.

The questions are a fixed set of N = `asked`, put in random order before the run. Let K
be how many of all N the run would answer correctly if it went on to the end; the rule
passes it if K >= L = `least_correct`. K is unknown but fixed, and the answers so far, s
correct of t, are a sample without replacement. Their likelihood under K is

    l(K) = C(N - t, K - s) / C(N, K)

*Curtailment* is certainty: s >= L passes and t - s > N - L fails, whatever follows.

*Evidence* is a bet against the verdict that must not be missed:

    E_fail = sum of w(K) l(K) over K = 0 .. L-1, divided by l(L)
    E_pass = sum of w(K) l(K) over K = L .. N,   divided by l(L-1)

with weights w >= 0 that sum to 1 on each side. Half of the weight is spread evenly
over the side, so that a broken kernel is found in a handful of questions; the other
half over the N/5 counts nearest to the threshold, where most questions are needed.
(A side no wider than that, as the passing one of 87.10 %, has even weights.)

Under K = L, E_fail is a supermartingale that starts at 1, so Ville's inequality bounds
the probability that it ever reaches 1/delta by delta. Under a larger K that is rarer
still: turning a wrong answer into a correct one lowers E_fail from there on, because
l(K) / l(L) for K < L falls with every correct answer. So a run that would pass at the
end is failed early with probability at most delta, whatever its K, and the other way
round with E_pass. This is about all N answers of this run, not about a population of
questions, hence the sample without replacement: the evidence becomes certainty as t
reaches N. Any weights fixed beforehand are sound. `risk` computes the probabilities,
which are below delta, exactly.

After Waudby-Smith and Ramdas, "Confidence sequences for sampling without replacement"
(NeurIPS 2020).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

import numpy as np
from numpy.typing import NDArray

from mxmoe.evals.gate.checked import between
from mxmoe.evals.gate.checked import right_or_wrong
from mxmoe.evals.gate.checked import whole
from mxmoe.evals.gate.log_choose import log_choose
from mxmoe.evals.gate.rule import Rule

# One early verdict in a thousand, each way, may be another than that of all questions.
# The sampling of questions alone moves a score more: 0.8 points, one standard error.
DELTA = 1e-3


class Decision(StrEnum):
    """What to do after an answer."""

    PASS = "pass"
    FAIL = "fail"
    GO_ON = "go on"


class Reason(StrEnum):
    """Why a run stopped."""

    CURTAILED = "curtailed"  # no answer that is still out could change the verdict
    EVIDENCE = "evidence"  # one could, with probability at most delta
    ALL_ASKED = "all asked"


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where a run stands after `answered` questions, `correct` of them.

    log_fail, log_pass : ln E_fail, ln E_pass. reason : None if the decision is to go
    on.
    """

    answered: int
    correct: int
    log_fail: float
    log_pass: float
    decision: Decision
    reason: Reason | None


def log_evidence(rule: Rule, answered: int, correct: int) -> tuple[float, float]:
    """(ln E_fail, ln E_pass); (inf, -inf) where the run must fail, and the reverse."""
    whole("answered", answered, at_most=rule.asked)
    whole("correct", correct, at_most=answered)
    if correct >= rule.least_correct:
        return -math.inf, math.inf
    if answered - correct > rule.most_wrong:
        return math.inf, -math.inf
    least = rule.least_correct
    final = np.arange(rule.asked + 1)
    likelihood = log_choose(rule.asked - answered, final - correct)
    likelihood -= log_choose(rule.asked, final)
    weighted = likelihood + _log_weights(rule)
    log_fail = np.logaddexp.reduce(weighted[:least]) - likelihood[least]
    log_pass = np.logaddexp.reduce(weighted[least:]) - likelihood[least - 1]
    return float(log_fail), float(log_pass)


@cache
def _log_weights(rule: Rule) -> NDArray[np.float64]:
    """ln w(K), K = 0 .. asked; w sums to 1 below the threshold and to 1 above."""
    least, near = rule.least_correct, math.ceil(rule.asked / 5)
    weights = np.zeros(rule.asked + 1)
    for side in (weights[:least][::-1], weights[least:]):  # nearest first
        side += 0.5 / len(side)
        side[:near] += 0.5 / min(near, len(side))
    return np.log(weights)


def weigh(
    rule: Rule,
    answered: int,
    correct: int,
    *,
    delta: float = DELTA,
    full: bool = False,
) -> Standing:
    """Stop or go on? `full` asks every question and only then decides."""
    needed = -math.log(between("delta", delta, 0, 0.5))
    log_fail, log_pass = log_evidence(rule, answered, correct)
    decision, reason = Decision.GO_ON, None
    if answered == rule.asked:
        decision, reason = _final(rule, correct), Reason.ALL_ASKED
    elif not full and max(log_fail, log_pass) >= needed:
        certain = math.isinf(log_fail)
        decision = Decision.FAIL if log_fail > log_pass else Decision.PASS
        reason = Reason.CURTAILED if certain else Reason.EVIDENCE
    return Standing(
        answered=answered,
        correct=correct,
        log_fail=log_fail,
        log_pass=log_pass,
        decision=decision,
        reason=reason,
    )


def first_stop(
    rule: Rule,
    answers: Iterable[bool],
    *,
    delta: float = DELTA,
    full: bool = False,
) -> Standing:
    """Where a run stops whose answers, in the registered order, are `answers`.

    Weighed after every answer, however many are released at once, so that the verdict
    does not depend on how they finished. If they end before the run may stop, the
    decision is still to go on. `BadInput` for an answer that is neither right nor
    wrong: a missing one is not a score.
    """
    correct = 0
    standing = weigh(rule, 0, 0, delta=delta, full=full)
    for answered, answer in enumerate(answers, start=1):
        correct += right_or_wrong(f"answer {answered}", answer)
        standing = weigh(rule, answered, correct, delta=delta, full=full)
        if standing.decision is not Decision.GO_ON:
            break
    return standing


def _final(rule: Rule, correct: int) -> Decision:
    return Decision.PASS if rule.passes(correct) else Decision.FAIL
