"""Two runs on the same questions: McNemar, the interval, what could have been seen."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest
from scipy.stats import multinomial

from mxmoe.evals.gate.paired import compare_paired
from mxmoe.evals.gate.paired import detectable_drop
from mxmoe.evals.gate.paired import drop_interval
from mxmoe.evals.gate.paired import mcnemar
from mxmoe.evals.gate.paired import mcnemar_power
from mxmoe.reference.errors import BadInput

COUNTS = st.integers(0, 60)


def runs(
    lost: int, gained: int, both: int, neither: int
) -> tuple[dict[str, bool], dict[str, bool]]:
    kinds = [(True, False)] * lost + [(False, True)] * gained
    kinds += [(True, True)] * both + [(False, False)] * neither
    names = [f"q{i:04}" for i in range(len(kinds))]
    return (
        {n: before for n, (before, _) in zip(names, kinds, strict=True)},
        {n: after for n, (_, after) in zip(names, kinds, strict=True)},
    )


@given(COUNTS, COUNTS)
def test_mcnemar_is_the_tail_of_a_fair_coin(lost: int, gained: int) -> None:
    n = lost + gained
    upper = Fraction(sum(math.comb(n, i) for i in range(lost, n + 1)), 2**n)
    lower = Fraction(sum(math.comb(n, i) for i in range(lost + 1)), 2**n)
    worse, different = mcnemar(lost, gained)
    assert worse == pytest.approx(float(upper), rel=1e-9)
    assert different == pytest.approx(min(1.0, float(2 * min(upper, lower))), rel=1e-9)
    if n:
        assert different == pytest.approx(binomtest(gained, n).pvalue, rel=1e-9)


def test_a_comparison_names_what_flipped_both_ways() -> None:
    found = compare_paired(*runs(lost=3, gained=1, both=10, neither=2))
    assert found.lost == ("q0000", "q0001", "q0002")
    assert found.gained == ("q0003",)
    assert (found.asked, found.baseline_correct, found.run_correct) == (16, 13, 11)
    assert found.drop == pytest.approx(2 / 16)
    assert found.interval[0] < found.drop < found.interval[1]
    assert found.p_worse == pytest.approx(5 / 16)
    assert not found.worse


def test_only_a_run_that_lost_is_worse() -> None:
    fell = compare_paired(*runs(lost=40, gained=15, both=1150, neither=114))
    rose = compare_paired(*runs(lost=15, gained=40, both=1150, neither=114))
    assert fell.worse
    assert not rose.worse
    assert rose.p_different == fell.p_different < 0.01
    assert rose.p_worse > 0.99
    assert rose.interval == pytest.approx([-fell.interval[1], -fell.interval[0]])


def test_a_run_that_fell_by_two_points_passes_the_gate_and_is_worse() -> None:
    """Why the comparison exists: 1192 to 1166 of 1319 is far above 1149."""
    found = compare_paired(*runs(lost=46, gained=20, both=1146, neither=107))
    assert (found.baseline_correct, found.run_correct) == (1192, 1166)
    assert found.worse


def test_equal_runs_are_equal_and_the_interval_is_not_empty() -> None:
    found = compare_paired(*runs(lost=0, gained=0, both=1192, neither=127))
    assert (found.p_worse, found.p_different, found.drop) == (1, 1, 0)
    # z² / (n + z²), the score interval's width for a share of which none was seen.
    edge = 1.96**2 / (1319 + 1.96**2)
    assert found.interval == pytest.approx((-edge, edge), rel=1e-3)
    assert found.detectable == pytest.approx(0.0069, abs=1e-4)


def score_statistic(d: float, lost: int, gained: int, asked: int) -> float:
    """By maximising the likelihood numerically, not by the quadratic equation."""

    def unlikely(q: float) -> float:
        shares = ((lost, q + d), (gained, q), (asked - lost - gained, 1 - 2 * q - d))
        return -sum(n * math.log(max(p, 1e-300)) for n, p in shares if n)

    low, high = max(0.0, -d), (1 - d) / 2
    q = minimize_scalar(unlikely, bounds=(low, high), options={"xatol": 1e-13}).x
    return (lost - gained - asked * d) / math.sqrt(asked * (2 * q + d - d * d))


@pytest.mark.parametrize(
    ("lost", "gained", "asked"),
    [(40, 20, 1319), (5, 1, 1319), (1, 5, 30), (12, 3, 20), (0, 6, 25), (7, 0, 1319)],
)
def test_the_ends_of_the_interval_are_just_not_rejected(
    lost: int, gained: int, asked: int
) -> None:
    low, high = drop_interval(lost, gained, asked=asked)
    assert score_statistic(low, lost, gained, asked) == pytest.approx(1.96, abs=1e-3)
    assert score_statistic(high, lost, gained, asked) == pytest.approx(-1.96, abs=1e-3)


@given(st.data())
def test_the_interval_holds_the_drop_and_stays_in_range(data: st.DataObject) -> None:
    asked = data.draw(st.integers(1, 2000))
    lost = data.draw(st.integers(0, asked))
    gained = data.draw(st.integers(0, asked - lost))
    low, high = drop_interval(lost, gained, asked=asked)
    assert -1 <= low <= (lost - gained) / asked <= high <= 1
    assert low < high
    assert drop_interval(gained, lost, asked=asked) == pytest.approx((-high, -low))


@pytest.mark.parametrize("drop", [0.0, 0.01, 0.03])
def test_the_interval_covers_the_true_drop(drop: float) -> None:
    generator = np.random.default_rng(7)
    shares = [0.015 + drop, 0.015, 0.97 - drop]
    covered = 0
    for lost, gained, _ in generator.multinomial(1319, shares, size=400):
        low, high = drop_interval(int(lost), int(gained), asked=1319)
        covered += low <= drop <= high
    # 380 expected, sd 4.4.
    assert covered >= 367


@pytest.mark.parametrize("drop", [0.0, 0.1, 0.3])
def test_the_power_is_the_sum_over_all_that_can_happen(drop: float) -> None:
    shares, found = [0.1 + drop, 0.1, 0.8 - drop], 0.0
    for lost in range(17):
        for gained in range(17 - lost):
            if mcnemar(lost, gained)[0] <= 0.05:
                found += multinomial.pmf([lost, gained, 16 - lost - gained], 16, shares)
    power = mcnemar_power(0.2, drop, asked=16, alpha=0.05)
    assert found == pytest.approx(power, abs=1e-12)


@pytest.mark.parametrize(
    ("flipping", "alpha", "drop"),
    [
        (0.01, 0.05, 1.01),
        (0.03, 0.05, 1.49),
        (0.03, 0.01, 1.97),
        (0.05, 0.05, 1.80),
        (0.07, 0.05, 2.06),
    ],
)
def test_the_detectable_drop_is_known(
    flipping: float, alpha: float, drop: float
) -> None:
    """`gsm8k_gating.md`, section 4, which takes the baseline's own flips as fixed.

    Here they are random too, which asks for up to 0.08 points more.
    """
    found = detectable_drop(flipping, asked=1319, alpha=alpha)
    assert found is not None
    assert 0 <= 100 * found - drop < 0.08
    assert mcnemar_power(flipping, found, asked=1319, alpha=alpha) == pytest.approx(0.8)


def test_a_drop_that_few_questions_cannot_show_has_no_size() -> None:
    """Five losses of five have p = 0.03: at 0.01 no run of five questions is worse."""
    assert compare_paired(*runs(lost=5, gained=0, both=0, neither=0)).detectable is None
    assert detectable_drop(0.02, asked=1319, largest=0.001) is None


@pytest.mark.parametrize(
    ("baseline", "run", "message"),
    [
        ({}, {}, "found none"),
        ({"a": True}, {"a": True, "b": False}, "1 in one only, first b in the run"),
        ({"a": True, "b": True}, {"b": True}, "first a in the baseline"),
        ({"a": True}, {"a": None}, "run, question a: expected correct or wrong"),
        ({"a": math.nan}, {"a": True}, "baseline, question a"),
        ({"a": 1}, {"a": True}, "baseline, question a"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(
    baseline: dict[str, bool], run: dict[str, bool], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        compare_paired(baseline, run)


@pytest.mark.parametrize("bad", [math.nan, -0.1, 1.1])
def test_shares_out_of_range_are_refused(bad: float) -> None:
    with pytest.raises(BadInput):
        detectable_drop(bad, asked=1319)
    with pytest.raises(BadInput):
        drop_interval(1, 1, asked=10, confidence=bad)
    with pytest.raises(BadInput):
        compare_paired({"a": True}, {"a": True}, alpha=bad)
