"""How often stopping early gives another verdict, computed exactly.

The decision depends on t answered and s correct only, and for each t it is to fail up
to some s, to pass from some s on, and to go on in between. A sequence of answers
walks through that channel until it leaves it. All orders of the N questions are
equally likely, so a walk that leaves at (t, s) has, if K of all N are correct, the
probability C(N - t, K - s) / C(N, K), whichever walk it is; and how many walks leave
there does not depend on K. The walks are counted in whole numbers, without rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mxmoe.evals.gate.checked import between
from mxmoe.evals.gate.evidence import DELTA
from mxmoe.evals.gate.evidence import Decision
from mxmoe.evals.gate.evidence import weigh
from mxmoe.evals.gate.log_choose import log_choose
from mxmoe.evals.gate.rule import Rule


@dataclass(frozen=True, kw_only=True)
class Boundaries:
    """When to stop, for t = 0 .. asked answered questions.

    fail_at_most : int [asked+1], fail with so many correct or fewer; -1 never.
    pass_at_least : int [asked+1], pass with so many correct or more; t+1 never.
    """

    rule: Rule
    fail_at_most: tuple[int, ...]
    pass_at_least: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Risk:
    """What early stopping does to a run with K correct of all, for K = 0 .. asked.

    other_verdict : float64 [asked+1], probability of another verdict than all
    questions give. questions : float64 [asked+1], mean number of questions answered.
    """

    rule: Rule
    other_verdict: NDArray[np.float64]
    questions: NDArray[np.float64]

    @property
    def wrong_fail(self) -> float:
        """The largest probability, over K, to fail a run that would pass."""
        return float(self.other_verdict[self.rule.least_correct :].max())

    @property
    def wrong_pass(self) -> float:
        """The largest probability, over K, to pass a run that would fail."""
        return float(self.other_verdict[: self.rule.least_correct].max())

    def mean_questions(self, accuracy: float) -> float:
        """Questions needed if each answer is correct with probability `accuracy`.

        K is binomial then. accuracy : above 0, at most 1.
        """
        p = between("accuracy", accuracy, 0, 1)
        final = np.arange(self.rule.asked + 1)
        if p == 1:
            return float(self.questions[-1])
        log_weight = log_choose(self.rule.asked, final) + final * math.log(p)
        log_weight += (self.rule.asked - final) * math.log1p(-p)
        return float(np.exp(log_weight) @ self.questions)


def stopping_boundaries(rule: Rule, *, delta: float = DELTA) -> Boundaries:
    """Where `weigh` stops, found by asking it.

    One question more moves each boundary by 0 or 1: a wrong answer raises E_fail, a
    correct one lowers it, so what fails at (t, s) still fails at (t+1, s), and what
    fails at (t+1, s+1) did at (t, s). Two questions to `weigh` for each t suffice.
    """
    fails, passes = [-1], [1]
    for t in range(1, rule.asked + 1):
        fail, least = fails[-1] + 1, passes[-1]
        if weigh(rule, t, fail, delta=delta).decision is not Decision.FAIL:
            fail -= 1
        if weigh(rule, t, least, delta=delta).decision is not Decision.PASS:
            least += 1
        fails.append(fail)
        passes.append(least)
    return Boundaries(rule=rule, fail_at_most=tuple(fails), pass_at_least=tuple(passes))


def exact_risk(boundaries: Boundaries) -> Risk:
    """Error probabilities and mean numbers of questions for every final count."""
    rule = boundaries.rule
    t, s, log_walks = _exits(boundaries)
    final = np.arange(rule.asked + 1)
    log_p = log_walks + log_choose(rule.asked - t, final[:, None] - s)
    log_p -= log_choose(rule.asked, final)[:, None]
    probability = np.exp(log_p)
    passed = s >= np.asarray(boundaries.pass_at_least)[t]
    other = passed != (final >= rule.least_correct)[:, None]
    return Risk(
        rule=rule,
        other_verdict=(probability * other).sum(axis=1),
        questions=probability @ t.astype(np.float64),
    )


def questions_to_go(boundaries: Boundaries) -> NDArray[np.float64]:
    """Mean number of questions still to answer, float64 [answered, correct].

    Before anything is known each number correct is taken as equally likely, as in the
    evidence, so after s of t the next is correct with probability (s + 1) / (t + 2)
    (Laplace's rule of succession). 0 where the run has stopped.
    """
    asked = boundaries.rule.asked
    to_go = np.zeros((asked + 1, asked + 1))
    for t in range(asked - 1, -1, -1):
        s = np.arange(boundaries.fail_at_most[t] + 1, boundaries.pass_at_least[t])
        p = (s + 1) / (t + 2)
        to_go[t, s] = 1 + p * to_go[t + 1, s + 1] + (1 - p) * to_go[t + 1, s]
    return to_go


def _exits(
    boundaries: Boundaries,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Where walks leave: answered, correct, and ln of how many walks leave there."""
    walks = {0: 1}
    exits: list[tuple[int, int, float]] = []
    for t in range(1, boundaries.rule.asked + 1):
        longer: dict[int, int] = {}
        for s, count in walks.items():
            longer[s] = longer.get(s, 0) + count
            longer[s + 1] = longer.get(s + 1, 0) + count
        low, high = boundaries.fail_at_most[t], boundaries.pass_at_least[t]
        walks = {s: count for s, count in longer.items() if low < s < high}
        exits += [
            (t, s, math.log(count)) for s, count in longer.items() if not low < s < high
        ]
    answered, correct, log_walks = zip(*exits, strict=True)
    return np.array(answered), np.array(correct), np.array(log_walks)
