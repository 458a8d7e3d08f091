"""Did the nightly score fall, and since when? A CUSUM that goes on learning.

A CUSUM adds up how far each night lies below the baseline, in standard deviations of
one run, less an allowance k, and never falls below 0. It sounds when the sum reaches h;
the change began on the night after the sum was last 0 (Page 1954).

Mean and deviation are estimated, and eight runs estimate them poorly: taken as if they
were exact, an unlucky baseline sounds the alarm in 36 % of years without a change, not
in the 5 % for which h is chosen. Two things are done about it. A night is compared by
Student's t with what is known, n runs of mean m and sample deviation S,

    t = (m - count) / S * sqrt(n / (n + 1)),   n - 1 degrees of freedom

and counts as the normal score of the same probability (as in Hawkins' self-starting
CUSUM, 1987). And the nights join the known runs whenever the sum is back at 0; while
something is suspected they wait, so that a drop never becomes the norm.

By simulation with normal counts (tests/test_gate_cusum.py): a false alarm in the first
365 nights after 8, 16, 30 baseline runs in 20, 15, 11 % of series. Median nights to
find a drop of 3 run deviations, 1 % of the questions where two runs agree on 97 %: 5
if it comes directly after 8 baseline runs, 3 after 30 quiet nights more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from scipy.special import ndtri
from scipy.special import stdtr

from mxmoe.evals.gate.checked import whole
from mxmoe.reference.errors import BadInput

# Half of the shift that is to be found soonest, one deviation: the optimal allowance.
ALLOWANCE = 0.5
# For an allowance of 0.5, a false alarm in 7000 nights if the baseline were known
# (Siegmund's approximation: (exp(b) - b - 1) / 0.5 nights with b = h + 1.166): in 5 %
# of years.
ALARM = 7.0
# With fewer runs the t distribution has such tails that even a collapse on the first
# night has a small score.
LEAST_BASELINE = 8
# In questions. Counts are whole: equal ones (a deterministic kernel) do not show that
# the deviation is 0, and a flip of one question is no drop.
LEAST_DEVIATION = 1.0


@dataclass(frozen=True, kw_only=True)
class Drop:
    """Nights, counted from 0: the change began at `began` and was seen at `seen`."""

    began: int
    seen: int


def find_drop(nights: Sequence[int], *, baseline: Sequence[int]) -> Drop | None:
    """The first drop in `nights`, or None.

    nights, baseline : numbers of correct answers of full runs on the same questions,
    in order of time. A run that stopped early has no such number. Raises `BadInput`
    for fewer than 8 baseline runs, and for what is not a count.
    """
    began = 0
    for night, total in enumerate(cusum(nights, baseline=baseline)):
        if total >= ALARM:
            return Drop(began=began, seen=night)
        if total == 0:
            began = night + 1
    return None


def cusum(nights: Sequence[int], *, baseline: Sequence[int]) -> list[float]:
    """The sum after each night, in run deviations; raises as `find_drop` does."""
    if len(baseline) < LEAST_BASELINE:
        raise BadInput(
            f"baseline: expected at least {LEAST_BASELINE} runs, found {len(baseline)}"
        )
    known = _Known(0, 0.0, 0.0).joined_by(
        whole("count of a baseline run", count) for count in baseline
    )
    waiting: list[int] = []
    total, totals = 0.0, []
    for count in nights:
        waiting.append(whole("count of a night", count))
        total = max(0.0, total + known.score(count) - ALLOWANCE)
        totals.append(total)
        if total == 0:
            known, waiting = known.joined_by(waiting), []
    return totals


@dataclass(frozen=True)
class _Known:
    """Runs without a change: their number, mean, and squared distances from it."""

    runs: int
    mean: float
    squares: float

    def joined_by(self, counts: Iterable[int]) -> _Known:
        more = list(counts)
        mean = fmean(more)
        runs = self.runs + len(more)
        step = mean - self.mean
        return _Known(
            runs,
            self.mean + step * len(more) / runs,
            self.squares
            + sum((count - mean) ** 2 for count in more)
            + step**2 * self.runs * len(more) / runs,
        )

    def score(self, count: int) -> float:
        """How far below these runs a night lies, as a normal score."""
        deviation = max(math.sqrt(self.squares / (self.runs - 1)), LEAST_DEVIATION)
        t = (self.mean - count) / deviation * math.sqrt(self.runs / (self.runs + 1))
        # The tail of a collapse may be smaller than any float.
        tail = max(float(stdtr(self.runs - 1, -abs(t))), math.ulp(0.0))
        return math.copysign(float(ndtri(tail)), t)
