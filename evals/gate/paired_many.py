"""A run against several baseline runs on the same questions.

If run and baselines are equally good, the run is no special one among the m + 1: of
the c that answered a question correctly it is one with chance c / (m + 1), question by
question. So its number of correct answers is a sum of independent coins of known
chances, whose distribution is computed exactly. With one baseline this is McNemar's
test: only questions that flipped have a chance other than 0 or 1, and theirs is 1/2.

More baselines make the test sharper because their own flips average out; one lucky
baseline makes every later run look worse.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from mxmoe.evals.gate.checked import between
from mxmoe.evals.gate.paired import ALPHA
from mxmoe.evals.gate.paired import CONFIDENCE
from mxmoe.evals.gate.paired import POWER
from mxmoe.evals.gate.paired import PRECISION
from mxmoe.evals.gate.paired import Paired
from mxmoe.evals.gate.paired import check_marks
from mxmoe.evals.gate.paired import compare_paired

Marks = Mapping[str, bool]


def compare_with_many(
    baselines: Sequence[Marks], run: Marks, *, alpha: float = ALPHA
) -> Paired:
    """Compare a run with one baseline or more; raises as `compare_paired` does.

    lost, gained : questions on which the run departs from more than half of the
    baselines. baseline_correct : their mean, rounded. drop, interval and detectable are
    of the mean; for more than one baseline the last two are approximations, see
    `mean_interval` and `mean_detectable`.
    """
    if len(baselines) == 1:
        return compare_paired(baselines[0], run, alpha=alpha)
    between("alpha", alpha, 0, 0.5)
    for baseline in baselines:
        check_marks(baseline, run)
    questions = sorted(run)
    right = np.array([[bool(b[q]) for q in questions] for b in baselines]).mean(axis=0)
    mine = np.array([bool(run[q]) for q in questions])
    p_worse, p_different = exchangeable(right * len(baselines), mine, len(baselines))
    lost = [q for q, r in zip(questions, right, strict=True) if r > 0.5 and not run[q]]
    gained = [q for q, r in zip(questions, right, strict=True) if r < 0.5 and run[q]]
    return Paired(
        asked=len(questions),
        baseline_correct=round(float(right.sum())),
        run_correct=int(mine.sum()),
        lost=tuple(lost),
        gained=tuple(gained),
        alpha=alpha,
        p_worse=p_worse,
        p_different=p_different,
        interval=mean_interval(right - mine),
        detectable=mean_detectable(
            right * len(baselines) + mine, len(baselines), alpha=alpha
        ),
        mean_drop=float((right - mine).mean()),
    )


def exchangeable(
    right: NDArray[np.float64], mine: NDArray[np.bool_], baselines: int
) -> tuple[float, float]:
    """Exact p-values: one-sided (is the run worse?) and two-sided (twice the smaller).

    right : per question, how many baselines answered it correctly. mine : whether the
    run did.
    """
    chances = (right + mine) / (baselines + 1)
    open_ones = chances[(chances > 0) & (chances < 1)]
    counts = np.ones(1)
    for chance in open_ones:
        counts = np.convolve(counts, (1 - chance, chance))
    seen = int(mine[(chances > 0) & (chances < 1)].sum())
    worse = float(min(1.0, counts[: seen + 1].sum()))
    better = float(min(1.0, counts[seen:].sum()))
    return worse, min(1.0, 2 * min(worse, better))


def mean_interval(
    drops: NDArray[np.float64], *, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Of the mean of `drops` (baselines' mean less the run, per question).

    Wald's interval after two more questions that cancel, one half lost and one half
    gained (Agresti and Min, Statistics in Medicine 24, 2005, 729-740): it is not empty
    when nothing flipped.
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    n = len(drops) + 2
    mean = float(drops.sum()) / n
    variance = (float((drops**2).sum()) + 1.0) / n - mean**2
    margin = z * math.sqrt(variance / n)
    return max(-1.0, mean - margin), min(1.0, mean + margin)


def mean_detectable(
    right: NDArray[np.float64], baselines: int, *, alpha: float, power: float = POWER
) -> float | None:
    """The smallest drop found with probability `power`, by the normal approximation.

    right : per question, how many of baselines and run were correct. A drop d loses
    n d questions that all baselines have: each is short of its chance m / (m + 1) and
    adds m / (m + 1)² to the variance that the test expects,

        n d m / (m + 1) = z(alpha) sqrt(v + n d m / (m + 1)²) + z(power) sqrt(v)

    with v the variance of the flips at hand, which includes a drop that is really
    there. Counts are whole: in simulation 0.75 to 0.8 of such drops are found.
    """
    chances = right / (baselines + 1)
    flips, n, m = float((chances * (1 - chances)).sum()), len(right), baselines
    z_alpha, z_power = -NormalDist().inv_cdf(alpha), NormalDist().inv_cdf(power)

    def excess(drop: float) -> float:
        lost = n * drop * m / (m + 1)
        needed = z_alpha * math.sqrt(flips + lost / (m + 1))
        return lost - needed - z_power * math.sqrt(flips)

    if excess(1.0) < 0:
        return None
    # At 0 the excess is negative, or 0 without flips: then the root above is meant.
    return float(brentq(excess, PRECISION, 1.0)) if excess(PRECISION) < 0 else PRECISION
