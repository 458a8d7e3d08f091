"""The CUSUM over nights: quiet when nothing changed, soon when something did."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from mxmoe.evals.gate.cusum import Drop
from mxmoe.evals.gate.cusum import cusum
from mxmoe.evals.gate.cusum import find_drop
from mxmoe.reference.errors import BadInput

MEAN = 1191
# Of a run's count where two runs agree on 97 %: sqrt(0.03 * 1319 / 2).
DEVIATION = 4.45
BASELINE = [1191, 1187, 1195, 1190, 1196, 1185, 1193, 1191]


def series(generator: np.random.Generator, runs: int, drop: float = 0) -> list[int]:
    counts = generator.normal(MEAN - drop * DEVIATION, DEVIATION, size=runs)
    return [int(count) for count in counts.round()]


@pytest.mark.parametrize(("baseline", "share"), [(8, 0.20), (30, 0.11), (300, 0.05)])
def test_a_year_without_a_change_is_mostly_quiet(baseline: int, share: float) -> None:
    generator = np.random.default_rng(baseline)
    alarms = sum(
        find_drop(series(generator, 365), baseline=series(generator, baseline))
        is not None
        for _ in range(150)
    )
    # sd 0.033 at most. With mean and deviation of 8 runs taken as exact: 0.36.
    assert alarms / 150 == pytest.approx(share, abs=0.08)


@pytest.mark.parametrize(
    ("baseline", "quiet", "drop", "median"),
    [(8, 0, 3, 5), (8, 30, 3, 3), (8, 0, 6, 3), (8, 30, 6, 2), (300, 0, 1.5, 7)],
)
def test_a_drop_is_found_in_the_nights_that_it_takes(
    baseline: int, quiet: int, drop: float, median: int
) -> None:
    generator = np.random.default_rng(0)
    nights = []
    for _ in range(200):
        known = series(generator, baseline)
        counts = series(generator, quiet) + series(generator, 60, drop)
        found = find_drop(counts, baseline=known)
        if found is None or found.seen >= quiet:  # else a false alarm before
            nights.append(math.inf if found is None else found.seen - quiet + 1)
    assert len(nights) > 180
    assert abs(float(np.median(nights)) - median) <= 1
    assert np.isfinite(nights).mean() > 0.97


def test_the_night_of_the_change_is_named() -> None:
    generator = np.random.default_rng(5)
    off = []
    for _ in range(100):
        counts = series(generator, 40) + series(generator, 20, drop=4)
        found = find_drop(counts, baseline=series(generator, 20))
        assert found is not None
        off.append(found.began - 40)
    # The sum may have been above 0 by chance when the change came.
    assert np.median(off) == 0
    assert sum(abs(o) <= 2 for o in off) >= 70


def test_a_collapse_is_found_in_its_first_night() -> None:
    assert find_drop([*BASELINE, 27], baseline=BASELINE) == Drop(began=8, seen=8)


def test_the_first_drop_counts_and_what_follows_does_not() -> None:
    nights = [*BASELINE, 27, 27, *BASELINE, 27]
    assert find_drop(nights, baseline=BASELINE) == Drop(began=8, seen=8)


def test_a_slow_drop_does_not_become_the_norm() -> None:
    """One question a night: learned from, each night would look like the last."""
    found = find_drop([1191 - night for night in range(60)], baseline=BASELINE)
    assert found is not None
    assert found.seen < 20


def test_quiet_nights_are_learned_from() -> None:
    """Eight runs that agree by luck: a night 8 below them is an alarm, later none."""
    lucky = [1191, 1190, 1192, 1191] * 2
    before = cusum([1183], baseline=lucky)
    *quiet, after = cusum([*[1197, 1189, 1195, 1188] * 8, 1195, 1183], baseline=lucky)
    assert quiet[-1] == 0
    assert before[0] > after + 1


def test_a_rise_is_no_drop() -> None:
    assert find_drop([1250] * 50, baseline=BASELINE) is None
    assert cusum([1250] * 3, baseline=BASELINE) == [0, 0, 0]


def test_a_kernel_that_repeats_itself_exactly_may_flip_a_question() -> None:
    same = [1191] * 8
    assert find_drop([1191, 1190] * 100, baseline=same) is None
    assert find_drop([1191] * 5 + [1150], baseline=same) == Drop(began=5, seen=5)


def test_a_night_counts_as_its_probability_under_the_runs_before_it() -> None:
    """Eight runs with mean 1191 and deviation 3.7033; t with 7 degrees of freedom."""
    assert np.mean(BASELINE) == 1191
    (total,) = cusum([1180], baseline=BASELINE)
    t = 11 / np.std(BASELINE, ddof=1) * math.sqrt(8 / 9)
    draws = np.random.default_rng(0).standard_t(7, size=400_000)
    normal = np.random.default_rng(1).standard_normal(400_000)
    assert (draws > t).mean() == pytest.approx((normal > total + 0.5).mean(), rel=0.06)


def test_the_sum_never_falls_below_zero_and_grows_with_the_drop() -> None:
    totals = [cusum([1191 - d], baseline=BASELINE)[0] for d in range(-5, 40)]
    assert min(totals) == 0
    assert all(a <= b for a, b in pairwise(totals))


@pytest.mark.parametrize("runs", range(8))
def test_fewer_than_eight_baseline_runs_are_refused(runs: int) -> None:
    with pytest.raises(BadInput, match=f"at least 8 runs, found {runs}"):
        find_drop([1191], baseline=BASELINE[:runs])


@pytest.mark.parametrize("bad", [math.nan, None, 90.3, -1])
def test_what_is_no_count_is_refused(bad: int) -> None:
    with pytest.raises(BadInput, match="count of a night"):
        find_drop([bad], baseline=BASELINE)
    with pytest.raises(BadInput, match="count of a baseline run"):
        find_drop([1191], baseline=[*BASELINE, bad])
