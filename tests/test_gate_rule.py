"""The rule: one whole number, that of the published threshold, never a free pass."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxmoe.evals.gate.rule import ReferenceTest
from mxmoe.evals.gate.rule import Rule
from mxmoe.evals.gate.rule import rule_from_threshold
from mxmoe.reference.errors import BadInput

GPT_OSS = ReferenceTest(reference=90.3, asked=1319)


def test_the_published_gate_is_1149_of_1319() -> None:
    assert GPT_OSS.threshold == pytest.approx(87.0975, abs=5e-5)
    assert GPT_OSS.theta == pytest.approx(4.8411, abs=5e-5)
    assert GPT_OSS.rule() == Rule(1319, 1149)
    assert GPT_OSS.rule().most_wrong == 170
    assert GPT_OSS.rule().passes(1149)
    assert not GPT_OSS.rule().passes(1148)
    # The scores of TensorRT-LLM's pull request 13867, before and after its fix.
    assert not GPT_OSS.rule().passes(round(1319 * 0.0205))
    assert GPT_OSS.rule().passes(round(1319 * 0.9037))


@pytest.mark.parametrize(
    ("asked", "threshold", "theta"),
    [(100, 78.67, 17.58), (200, 82.08, 12.43), (500, 85.10, 7.86)],
)
def test_fewer_questions_lower_the_threshold(
    asked: int, threshold: float, theta: float
) -> None:
    test = ReferenceTest(reference=90.3, asked=asked)
    assert test.threshold == pytest.approx(threshold, abs=0.006)
    assert test.theta == pytest.approx(theta, abs=0.006)


@given(st.integers(1, 3000), st.integers(1, 10000))
def test_the_whole_number_is_the_least_that_reaches_the_threshold(
    asked: int, hundredths: int
) -> None:
    rule = rule_from_threshold(hundredths / 100, asked=asked)
    threshold = Fraction(hundredths, 100)
    assert Fraction(100 * rule.least_correct, asked) >= threshold
    assert Fraction(100 * (rule.least_correct - 1), asked) < threshold


def test_a_threshold_is_the_decimal_that_is_written() -> None:
    # 0.07 * 100 = 7.000000000000001 in binary: one correct answer too many.
    assert rule_from_threshold(7.0, asked=100).least_correct == 7
    assert rule_from_threshold(1.1, asked=1000).least_correct == 11
    assert rule_from_threshold(100, asked=1319).least_correct == 1319


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 0, -1, 100.1, True, ""])
def test_a_threshold_out_of_range_is_refused(bad: float) -> None:
    with pytest.raises(BadInput, match="threshold: expected a number"):
        rule_from_threshold(bad, asked=1319)


@pytest.mark.parametrize("name", ["reference", "alpha", "beta", "sigma"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0, -0.1, 101.0, None])
def test_a_parameter_out_of_range_is_refused(name: str, bad: float) -> None:
    values = {"reference": 90.3, "alpha": 0.05, "beta": 0.2, "sigma": 50.0}
    with pytest.raises(BadInput, match=f"{name}: expected a number"):
        ReferenceTest(asked=1319, **(values | {name: bad}))


@pytest.mark.parametrize(
    ("asked", "least"),
    [(0, 0), (10, 0), (10, 11), (10, -1), (1319.0, 1149), (10, True), (10, math.nan)],
)
def test_a_rule_that_everything_or_nothing_passes_is_refused(
    asked: int, least: int
) -> None:
    with pytest.raises(BadInput):
        Rule(asked, least)


def test_a_reference_of_next_to_nothing_gives_no_rule() -> None:
    """TensorRT-LLM's smoke run asks one question against a reference of 0: passes."""
    with pytest.raises(BadInput, match="threshold"):
        ReferenceTest(reference=0.1, asked=1).rule()


@pytest.mark.parametrize("bad", [math.nan, 1149.0, -1, 1320, True])
def test_what_is_no_count_never_passes(bad: int) -> None:
    with pytest.raises(BadInput):
        Rule(1319, 1149).passes(bad)
