"""The test against several baselines is exact, and McNemar's for one."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from mxmoe.evals.gate.paired import compare_paired
from mxmoe.evals.gate.paired import detectable_drop
from mxmoe.evals.gate.paired import mcnemar
from mxmoe.evals.gate.paired_many import compare_with_many
from mxmoe.evals.gate.paired_many import exchangeable
from mxmoe.evals.gate.paired_many import mean_detectable
from mxmoe.evals.gate.paired_many import mean_interval

ASKED = 400


def drawn(random: Random, stable: float, *, drop: float = 0.0) -> dict[str, bool]:
    """A run whose questions are right, but for unstable ones, which are coins."""
    unstable = int(ASKED * (1 - stable))
    lost = int(ASKED * drop)
    return {
        f"{q}": random.random() < 0.5 if q < unstable else q >= unstable + lost
        for q in range(ASKED)
    }


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (7, 0), (9, 3), (3, 9), (5, 5)])
def test_with_one_baseline_it_is_mcnemar(lost: int, gained: int) -> None:
    right = np.array([1.0] * lost + [0.0] * gained + [1.0] * 20)
    mine = np.array([False] * lost + [True] * gained + [True] * 20)
    worse, different = exchangeable(right, mine, 1)
    assert worse == pytest.approx(mcnemar(lost, gained)[0])
    assert different == pytest.approx(mcnemar(lost, gained)[1])
    run = {str(q): bool(m) for q, m in enumerate(mine)}
    baseline = {str(q): bool(r) for q, r in enumerate(right)}
    assert compare_with_many([baseline], run) == compare_paired(baseline, run)


def test_the_chances_are_those_of_enumeration() -> None:
    # Two baselines. Of the three right answers to q0 one is the run's with chance 1,
    # of the two to q1 with 2/3, of the one to q2 with 1/3.
    right = np.array([2.0, 2.0, 1.0])
    mine = np.array([True, False, False])
    worse, _ = exchangeable(right, mine, 2)
    assert worse == pytest.approx((1 - 2 / 3) * (1 - 1 / 3))


def test_equal_runs_are_called_worse_as_rarely_as_promised() -> None:
    random, alarms, tries = Random(0), 0, 300
    for _ in range(tries):
        *baselines, run = (drawn(random, 0.9) for _ in range(3))
        alarms += compare_with_many(baselines, run, alpha=0.05).worse
    # 0.05 and three standard errors; the test is discrete, so it stays below.
    assert 0.005 < alarms / tries < 0.05 + 3 * (0.05 * 0.95 / tries) ** 0.5


def test_more_baselines_find_smaller_drops() -> None:
    random = Random(1)
    baselines = [drawn(random, 0.9) for _ in range(8)]
    found = [
        compare_with_many(baselines[:count], drawn(random, 0.9)).detectable
        for count in (1, 2, 8)
    ]
    assert None not in found
    assert sorted(found, key=lambda drop: -(drop or 0)) == found


def test_the_drop_that_it_claims_to_find_it_finds() -> None:
    # Luck of the baselines is part of the chance: they are drawn anew each time.
    random, found, tries, claimed = Random(2), 0, 150, 0.03
    for _ in range(tries):
        baselines = [drawn(random, 0.9) for _ in range(4)]
        quiet = compare_with_many(baselines, drawn(random, 0.9)).detectable
        assert quiet == pytest.approx(claimed, rel=0.2)
        run = drawn(random, 0.9, drop=claimed + 1e-9)
        found += compare_with_many(baselines, run).worse
    # Whole counts cost some of the 0.8: 0.75 in 200 tries.
    assert 0.63 < found / tries < 0.9


def test_the_normal_approximation_is_near_the_exact_power_for_one_baseline() -> None:
    right = np.array([1.0] * 40 + [2.0] * 1279)
    approximate = mean_detectable(right, 1, alpha=0.01)
    exact = detectable_drop(40 / 1319, asked=1319)
    assert approximate == pytest.approx(exact, rel=0.1)


def test_the_interval_covers_and_is_never_empty() -> None:
    low, high = mean_interval(np.zeros(ASKED))
    assert low < 0 < high < 0.01
    random, covered, tries = Random(3), 0, 150
    truth = int(ASKED * 0.05) / ASKED
    for _ in range(tries):
        baselines = [drawn(random, 0.9) for _ in range(4)]
        found = compare_with_many(baselines, drawn(random, 0.9, drop=truth))
        covered += found.interval[0] <= truth <= found.interval[1]
    assert covered / tries > 0.9
