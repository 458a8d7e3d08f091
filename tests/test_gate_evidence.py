"""The evidence: the formulas in exact arithmetic, and the stop that follows."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from mxmoe.evals.gate.evidence import Decision
from mxmoe.evals.gate.evidence import Reason
from mxmoe.evals.gate.evidence import first_stop
from mxmoe.evals.gate.evidence import log_evidence
from mxmoe.evals.gate.evidence import weigh
from mxmoe.evals.gate.rule import Rule
from mxmoe.reference.errors import BadInput

GATE = Rule(1319, 1149)


def exact_evidence(rule: Rule, t: int, s: int) -> tuple[Fraction, Fraction]:
    """Written from the definition, in whole numbers: (E_fail, E_pass)."""
    n, least = rule.asked, rule.least_correct
    likelihood = [
        Fraction(math.comb(n - t, k - s) if k >= s else 0, math.comb(n, k))
        for k in range(n + 1)
    ]
    sides = list(reversed(range(least))), list(range(least, n + 1))
    bets = []
    for side, hypothesis in zip(sides, (least, least - 1), strict=True):
        near = side[: -(-n // 5)]
        mixture = sum(likelihood[k] for k in side) / (2 * len(side))
        mixture += sum(likelihood[k] for k in near) / (2 * len(near))
        bets.append(mixture / likelihood[hypothesis])
    return bets[0], bets[1]


def undecided(rule: Rule) -> list[tuple[int, int]]:
    return [
        (t, s)
        for t in range(rule.asked)
        for s in range(t + 1)
        if s < rule.least_correct and t - s <= rule.most_wrong
    ]


@pytest.mark.parametrize(("asked", "least"), [(1, 1), (7, 1), (7, 7), (12, 9), (15, 4)])
def test_evidence_is_the_definition_in_exact_arithmetic(asked: int, least: int) -> None:
    rule = Rule(asked, least)
    for t, s in undecided(rule):
        expected = [math.log(bet) for bet in exact_evidence(rule, t, s)]
        assert log_evidence(rule, t, s) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("t", "s"),
    [(0, 0), (5, 0), (20, 20), (400, 350), (700, 640), (1318, 1148), (1148, 1148)],
)
def test_evidence_is_numerically_sound_at_full_size(t: int, s: int) -> None:
    expected = [
        math.log(bet.numerator) - math.log(bet.denominator)
        for bet in exact_evidence(GATE, t, s)
    ]
    assert log_evidence(GATE, t, s) == pytest.approx(expected, abs=1e-9, rel=1e-11)


def chance(rule: Rule, final: int, t: int, s: int) -> float:
    """Of s correct among the first t questions if `final` of all are correct."""
    if not 0 <= final - s <= rule.asked - t:
        return 0.0
    ways = math.comb(t, s) * math.comb(rule.asked - t, final - s)
    return ways / math.comb(rule.asked, final)


def test_evidence_is_a_fair_bet_under_the_hypothesis_it_speaks_against() -> None:
    """Its mean is 1 until the hypothesis becomes impossible, and never more."""
    rule = Rule(40, 30)
    for t in range(40):
        means = [0.0, 0.0]
        for s in range(t + 1):
            for side, final in enumerate((30, 29)):
                weight = chance(rule, final, t, s)
                if weight and (t, s) in undecided(rule):
                    means[side] += weight * math.exp(log_evidence(rule, t, s)[side])
        assert max(means) <= 1 + 1e-9
        if t <= rule.most_wrong:  # nothing is certain yet
            assert means == pytest.approx([1, 1], abs=1e-9)


def test_one_more_wrong_answer_never_speaks_for_passing() -> None:
    """The coupling of the proof, and that boundaries move by 0 or 1."""
    for t in (0, 3, 50, 170, 600, 1200):
        for s in range(max(0, t - 200), t + 1, 1 + t // 40):
            here = log_evidence(GATE, t, s)
            wrong = log_evidence(GATE, t + 1, s)
            right = log_evidence(GATE, t + 1, s + 1)
            assert right[0] <= here[0] + 1e-9
            assert here[0] <= wrong[0] + 1e-9
            assert wrong[1] <= here[1] + 1e-9
            assert here[1] <= right[1] + 1e-9


def test_evidence_is_none_before_the_first_answer() -> None:
    assert log_evidence(GATE, 0, 0) == pytest.approx((0, 0), abs=1e-9)
    assert weigh(GATE, 0, 0).decision is Decision.GO_ON
    assert weigh(GATE, 0, 0).reason is None


def test_the_verdict_is_certain_when_no_answer_can_change_it() -> None:
    passed = weigh(GATE, 1149, 1149, delta=1e-300)
    failed = weigh(GATE, 171, 0, delta=1e-300)
    assert (passed.decision, passed.reason) == (Decision.PASS, Reason.CURTAILED)
    assert (failed.decision, failed.reason) == (Decision.FAIL, Reason.CURTAILED)
    assert (passed.log_fail, passed.log_pass) == (-math.inf, math.inf)
    assert (failed.log_fail, failed.log_pass) == (math.inf, -math.inf)


def test_one_answer_before_certainty_there_is_none() -> None:
    rule = Rule(10, 6)
    assert weigh(rule, 9, 5, delta=1e-9).decision is Decision.GO_ON
    assert weigh(rule, 5, 5, delta=1e-9).decision is Decision.GO_ON
    assert weigh(rule, 4, 0, delta=1e-9).decision is Decision.GO_ON
    assert weigh(rule, 6, 6, delta=1e-9).decision is Decision.PASS
    assert weigh(rule, 5, 0, delta=1e-9).decision is Decision.FAIL


def test_a_broken_kernel_fails_after_five_wrong_answers() -> None:
    stop = first_stop(GATE, [False] * 1319)
    assert (stop.answered, stop.correct) == (5, 0)
    assert (stop.decision, stop.reason) == (Decision.FAIL, Reason.EVIDENCE)
    assert stop.log_fail >= math.log(1000) > weigh(GATE, 4, 0).log_fail


def test_a_perfect_model_passes_on_evidence() -> None:
    stop = first_stop(GATE, [True] * 1319)
    assert (stop.decision, stop.reason) == (Decision.PASS, Reason.EVIDENCE)
    assert stop.answered < 100
    assert stop.log_pass >= math.log(1000)


@settings(max_examples=50)
@given(st.data())
def test_curtailment_never_changes_the_verdict(data: st.DataObject) -> None:
    """With a delta that no evidence reaches, what stops is certainty alone."""
    asked = data.draw(st.integers(1, 50))
    rule = Rule(asked, data.draw(st.integers(1, asked)))
    answers = data.draw(st.lists(st.booleans(), min_size=asked, max_size=asked))
    stop = first_stop(rule, answers, delta=1e-300)
    assert stop.decision is (
        Decision.PASS if rule.passes(sum(answers)) else Decision.FAIL
    )
    assert stop.reason in (Reason.CURTAILED, Reason.ALL_ASKED)
    full = first_stop(rule, answers, full=True)
    assert (full.answered, full.correct) == (asked, sum(answers))
    assert (full.decision, full.reason) == (stop.decision, Reason.ALL_ASKED)


def test_a_full_run_is_not_stopped_by_certainty_or_evidence() -> None:
    for answers in ([False] * 1319, [True] * 1319):
        stop = first_stop(GATE, answers, full=True)
        assert (stop.answered, stop.reason) == (1319, Reason.ALL_ASKED)
    assert weigh(GATE, 1318, 0, full=True).decision is Decision.GO_ON


def test_at_the_threshold_one_answer_decides_the_full_run() -> None:
    generator = random.Random(0)
    for correct, verdict in ((1149, Decision.PASS), (1148, Decision.FAIL)):
        answers = [True] * correct + [False] * (1319 - correct)
        generator.shuffle(answers)
        assert first_stop(GATE, answers, full=True).decision is verdict


def test_a_run_that_ends_too_soon_has_no_verdict() -> None:
    assert first_stop(GATE, []).decision is Decision.GO_ON
    cut = first_stop(GATE, [True] * 20)
    assert (cut.decision, cut.answered, cut.reason) == (Decision.GO_ON, 20, None)
    assert first_stop(GATE, [True] * 1318, full=True).decision is Decision.GO_ON


def test_answers_after_the_stop_are_not_looked_at() -> None:
    answers = iter([False] * 5 + [True] * 1314)
    assert first_stop(GATE, answers).decision is Decision.FAIL
    assert len(list(answers)) == 1314


def test_numpy_answers_count_as_answers() -> None:
    assert first_stop(GATE, np.zeros(1319, dtype=bool)).answered == 5


@pytest.mark.parametrize("bad", [math.nan, None, 1, 0, 1.0, "True", ""])
def test_an_answer_that_is_missing_or_nan_is_not_a_score(bad: bool) -> None:
    with pytest.raises(BadInput, match="answer 2: expected correct or wrong"):
        first_stop(GATE, [True, bad])


@pytest.mark.parametrize(
    ("answered", "correct"), [(5, 6), (-1, 0), (1320, 0), (5, math.nan), (5.0, 1)]
)
def test_counts_that_cannot_be_are_refused(answered: int, correct: int) -> None:
    with pytest.raises(BadInput):
        weigh(GATE, answered, correct)


@pytest.mark.parametrize("delta", [0, -0.1, 0.6, math.nan, math.inf])
def test_a_delta_that_bounds_nothing_is_refused(delta: float) -> None:
    with pytest.raises(BadInput, match="delta"):
        weigh(GATE, 1, 1, delta=delta)
