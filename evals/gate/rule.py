"""How many correct answers pass: the acceptance rule, as one whole number.

A score is compared with a threshold once, here; everything after it counts answers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from statistics import NormalDist

from mxmoe.evals.gate.checked import between
from mxmoe.evals.gate.checked import whole
from mxmoe.reference.errors import BadInput


@dataclass(frozen=True)
class Rule:
    """Pass if at least `least_correct` of `asked` questions are answered correctly.

    Raises `BadInput` unless 1 <= least_correct <= asked: a rule that everything passes
    or that nothing passes judges nothing.
    """

    asked: int
    least_correct: int

    def __post_init__(self) -> None:
        asked = whole("asked", self.asked, at_least=1)
        least = whole("least_correct", self.least_correct, at_least=1)
        if least > asked:
            raise BadInput(
                f"least_correct: expected at most the {asked} questions asked, "
                f"found {least}"
            )

    def passes(self, correct: int) -> bool:
        """The verdict on `correct` answers of all that are asked."""
        return whole("correct", correct, at_most=self.asked) >= self.least_correct

    @property
    def most_wrong(self) -> int:
        """The most wrong answers with which a run still passes."""
        return self.asked - self.least_correct


@dataclass(frozen=True, kw_only=True)
class ReferenceTest:
    """A threshold in the notation of TensorRT-LLM's accuracy tests.

    reference : the reference score, in percent. asked : number of questions, n.
    alpha, beta : the error rates. sigma : the standard deviation of one answer's score
    on the scale of 0 to 100; 50 is the largest possible, that of p = 0.5. The defaults
    are those of its GSM8K task (`accuracy_core.py`, class GSM8K).

    Reference and run count there as two independent samples of n questions, so that
    their difference has the standard error s = sqrt(2 sigma² / n). With z(q) the
    normal quantile that is exceeded with probability q:

        threshold = reference - z(alpha) s        theta = (z(alpha) + z(beta)) s

    theta is the smallest drop of which the test says that it finds it with
    probability 1 - beta. Raises `BadInput` for a value that is not finite or out of
    range.
    """

    reference: float
    asked: int
    alpha: float = 0.05
    beta: float = 0.2
    sigma: float = 50.0

    def __post_init__(self) -> None:
        between("reference", self.reference, 0, 100)
        whole("asked", self.asked, at_least=1)
        # From 0.5 on the quantile changes sign: the threshold would be above the
        # reference, or the power below that of a coin.
        between("alpha", self.alpha, 0, 0.5)
        between("beta", self.beta, 0, 0.5)
        between("sigma", self.sigma, 0, 50)

    @property
    def standard_error(self) -> float:
        """s, in percent."""
        return math.sqrt(2 * self.sigma**2 / self.asked)

    @property
    def threshold(self) -> float:
        """The least score that passes, in percent."""
        return self.reference + NormalDist().inv_cdf(self.alpha) * self.standard_error

    @property
    def theta(self) -> float:
        """The smallest drop that the test claims to find, in percent."""
        quantiles = NormalDist().inv_cdf(self.alpha) + NormalDist().inv_cdf(self.beta)
        return -quantiles * self.standard_error

    def rule(self) -> Rule:
        """The whole number that the threshold means; `BadInput` if it is 0 or less."""
        return rule_from_threshold(self.threshold, asked=self.asked)


def rule_from_threshold(threshold: float, *, asked: int) -> Rule:
    """Pass at a score of at least `threshold` percent, above 0 and at most 100.

    The threshold is the decimal number that is printed, not the binary one next to it:
    110.0 correct are 5.5 % of 2000, whichever way 5.5 / 100 rounds.
    """
    value = between("threshold", threshold, 0, 100)
    asked = whole("asked", asked, at_least=1)
    return Rule(asked, math.ceil(Fraction(str(value)) * asked / 100))
