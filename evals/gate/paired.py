"""Two runs on the same questions: what flipped, and is the run worse?

Most questions are answered alike by both runs and say nothing of the difference. Of
the others, `lost` were correct in the baseline only and `gained` in the run only. If
the runs are equally good each of these is a fair coin, so lost ~ Binomial(lost +
gained, 1/2): McNemar's test in its exact form (McNemar 1947), without the normal
approximation that small counts do not allow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binom
from scipy.stats import binomtest

from mxmoe.evals.gate.checked import between
from mxmoe.evals.gate.checked import right_or_wrong
from mxmoe.evals.gate.checked import whole
from mxmoe.reference.errors import BadInput

# One false alarm in a hundred comparisons: nobody reads a nightly alarm at 5 %.
ALPHA = 0.01
CONFIDENCE = 0.95
POWER = 0.8
# Of a drop as a share of the questions; one of 1319 questions is 8e-4.
PRECISION = 1e-9


@dataclass(frozen=True, kw_only=True)
class Paired:
    """A run compared with its baseline, question by question.

    lost, gained : ids of the questions that only the baseline, only the run answered
    correctly, sorted. p_worse : one-sided p-value, small if the run is worse;
    p_different : two-sided. drop : (lost - gained) / asked. interval : of the drop, at
    95 % confidence. detectable : the smallest drop that this comparison would have
    called worse with probability 0.8, or None if there is none. mean_drop : against
    several baselines, whose mean is no whole number. Drops are shares of the questions,
    not percent.
    """

    asked: int
    baseline_correct: int
    run_correct: int
    lost: tuple[str, ...]
    gained: tuple[str, ...]
    alpha: float
    p_worse: float
    p_different: float
    interval: tuple[float, float]
    detectable: float | None
    mean_drop: float | None = None

    @property
    def drop(self) -> float:
        """The net loss, negative for a gain."""
        if self.mean_drop is not None:
            return self.mean_drop
        return (len(self.lost) - len(self.gained)) / self.asked

    @property
    def worse(self) -> bool:
        """Whether the run is worse, at level alpha."""
        return self.p_worse <= self.alpha


def compare_paired(
    baseline: Mapping[str, bool], run: Mapping[str, bool], *, alpha: float = ALPHA
) -> Paired:
    """Compare two runs given as question id -> answered correctly.

    Raises `BadInput` if there are no questions, if the questions differ, or if an
    answer is neither correct nor wrong.
    """
    between("alpha", alpha, 0, 0.5)
    check_marks(baseline, run)
    asked = len(baseline)
    lost = tuple(sorted(q for q in baseline if baseline[q] and not run[q]))
    gained = tuple(sorted(q for q in baseline if run[q] and not baseline[q]))
    baseline_correct = sum(map(bool, baseline.values()))
    p_worse, p_different = mcnemar(len(lost), len(gained))
    detectable = detectable_drop(
        (len(lost) + len(gained)) / asked,
        asked=asked,
        largest=baseline_correct / asked,
        alpha=alpha,
    )
    return Paired(
        asked=asked,
        baseline_correct=baseline_correct,
        run_correct=sum(map(bool, run.values())),
        lost=lost,
        gained=gained,
        alpha=alpha,
        p_worse=p_worse,
        p_different=p_different,
        interval=drop_interval(len(lost), len(gained), asked=asked),
        detectable=detectable,
    )


def check_marks(baseline: Mapping[str, bool], run: Mapping[str, bool]) -> None:
    """`BadInput` for other questions, none, or an answer neither correct nor wrong."""
    if not baseline or baseline.keys() != run.keys():
        raise BadInput(_other_questions(baseline, run))
    for name, answers in (("baseline", baseline), ("run", run)):
        for question, correct in answers.items():
            right_or_wrong(f"{name}, question {question}", correct)


def mcnemar(lost: int, gained: int) -> tuple[float, float]:
    """Exact p-values: one-sided (is the run worse?) and two-sided."""
    flipped = whole("lost", lost) + whole("gained", gained)
    if flipped == 0:
        return 1.0, 1.0
    worse = binomtest(lost, flipped, 0.5, alternative="greater").pvalue
    return float(worse), float(binomtest(lost, flipped, 0.5).pvalue)


def drop_interval(
    lost: int, gained: int, *, asked: int, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Tango's score interval of the drop (Statistics in Medicine 17, 1998, 891-908).

    The drops d that a score test does not reject: with q(d) the most likely chance of
    a gain if the drop is d,

        |lost - gained - asked d| <= z sqrt(asked (2 q(d) + d - d²))

    Taken rather than the exact interval from the flips alone, which holds their number
    fixed although it is as random as their direction; and rather than Wald's, which
    is empty when nothing flipped. At d = 0 it agrees with McNemar's test.
    """
    whole("asked", asked, at_least=1)
    whole("lost", lost, at_most=asked)
    whole("gained", gained, at_most=asked - lost)
    z = NormalDist().inv_cdf(0.5 + between("confidence", confidence, 0, 0.9999) / 2)
    drop = (lost - gained) / asked

    def excess(d: float) -> float:
        q = _likely_gain(d, lost, gained, asked)
        variance = max(0.0, asked * (2 * q + d - d * d))
        return abs(lost - gained - asked * d) - z * math.sqrt(variance)

    # At the drop itself excess is below 0 or, if nothing flipped, touches 0.
    low = brentq(excess, -1, drop - PRECISION) if drop > -1 + PRECISION else -1.0
    high = brentq(excess, drop + PRECISION, 1) if drop < 1 - PRECISION else 1.0
    return float(low), float(high)


def detectable_drop(
    flipping: float,
    *,
    asked: int,
    largest: float = 1.0,
    alpha: float = ALPHA,
    power: float = POWER,
) -> float | None:
    """The smallest drop found with probability `power` by the one-sided test.

    flipping : the share of questions that flip, half of them each way, when nothing
    changed; the drop comes on top of it, lost questions only. Taken from the
    comparison at hand it includes a drop that is really there: the result is then too
    large, never too small. largest : the baseline's score, which no drop exceeds; if
    even that would not be found the result is None.
    """
    if not 0 <= flipping <= 1:
        raise BadInput(f"flipping: expected a share, 0..1, found {flipping!r}")
    whole("asked", asked, at_least=1)
    between("power", power, 0, 1)
    most = min(largest, 1 - flipping)

    def missing(drop: float) -> float:
        return mcnemar_power(flipping, drop, asked=asked, alpha=alpha) - power

    if missing(most) < 0:
        return None
    if missing(0.0) >= 0:
        return 0.0
    return float(brentq(missing, 0.0, most, xtol=PRECISION))


def mcnemar_power(flipping: float, drop: float, *, asked: int, alpha: float) -> float:
    """Probability that the one-sided exact test finds a drop, summed over all counts.

    The flips are Binomial(asked, flipping + drop); of n of them each is a loss with
    chance (flipping/2 + drop) / (flipping + drop), and the test asks for so many
    losses that a fair coin shows as many with probability alpha or less.
    """
    share = flipping + drop
    if share == 0:
        return 0.0
    flips = np.arange(asked + 1)
    least = binom.isf(alpha, flips, 0.5) + 1
    found = binom.sf(least - 1, flips, (flipping / 2 + drop) / share)
    return float(binom.pmf(flips, asked, min(share, 1.0)) @ found)


def _likely_gain(d: float, lost: int, gained: int, asked: int) -> float:
    """The chance of a gain that is most likely under a drop d.

    The multinomial likelihood (q + d)^lost q^gained (1 - 2q - d)^rest is largest where
    2 asked q² - (lost + gained - (2 asked - lost + gained) d) q - gained d (1 - d) = 0,
    at the larger root.
    """
    b = lost + gained - (2 * asked - lost + gained) * d
    root = math.sqrt(max(0.0, b * b + 8 * asked * gained * d * (1 - d)))
    return max(0.0, -d, (b + root) / (4 * asked))


def _other_questions(baseline: Mapping[str, bool], run: Mapping[str, bool]) -> str:
    only = sorted(baseline.keys() ^ run.keys())
    if not only:
        return "runs: expected questions, found none"
    where = "baseline" if only[0] in baseline else "run"
    return (
        f"runs: expected the same questions in both, found {len(only)} in one only, "
        f"first {only[0]} in the {where}"
    )
