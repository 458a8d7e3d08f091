"""The risk of stopping early, exactly, for every number of correct answers."""

from __future__ import annotations

import itertools
import math
from functools import cache

import numpy as np
import pytest

from mxmoe.evals.gate.evidence import Decision
from mxmoe.evals.gate.evidence import first_stop
from mxmoe.evals.gate.evidence import weigh
from mxmoe.evals.gate.risk import Boundaries
from mxmoe.evals.gate.risk import Risk
from mxmoe.evals.gate.risk import exact_risk
from mxmoe.evals.gate.risk import questions_to_go
from mxmoe.evals.gate.risk import stopping_boundaries
from mxmoe.evals.gate.rule import Rule
from mxmoe.reference.errors import BadInput

GATE = Rule(1319, 1149)


@cache
def boundaries() -> Boundaries:
    return stopping_boundaries(GATE)


@cache
def risk() -> Risk:
    return exact_risk(boundaries())


def test_no_run_gets_another_verdict_more_than_once_in_a_thousand() -> None:
    assert risk().other_verdict.shape == (1320,)
    assert (risk().other_verdict <= 1e-3).all()
    assert (risk().other_verdict >= 0).all()


def test_the_runs_at_the_threshold_are_the_most_at_risk() -> None:
    worst = risk().other_verdict
    assert worst[1149] == risk().wrong_fail == pytest.approx(6.4e-4, rel=0.01)
    assert worst[1148] == risk().wrong_pass == pytest.approx(9.2e-4, rel=0.01)
    assert worst[1159] == pytest.approx(2e-4, rel=0.2)
    assert worst[1138] == pytest.approx(2e-4, rel=0.2)
    assert (np.diff(worst[:1149]) >= -1e-15).all()
    assert (np.diff(worst[1149:]) <= 1e-15).all()


def test_early_stopping_is_near_its_bound_at_a_larger_delta() -> None:
    """So the bound of one in a thousand is no accident of a far boundary."""
    loose = exact_risk(stopping_boundaries(GATE, delta=0.05))
    assert 0.025 < loose.wrong_fail <= 0.05
    assert 0.04 < loose.wrong_pass <= 0.05


@pytest.mark.parametrize(
    ("accuracy", "questions"),
    [
        (0.0205, 5.2),
        (0.5, 21),
        (0.8, 306),
        (0.85, 957),
        (0.871, 1232),
        (0.885, 1106),
        (0.903, 721),
    ],
)
def test_the_mean_number_of_questions_is_known(
    accuracy: float, questions: float
) -> None:
    """Figures of an independent computation, `gsm8k_gating.md`, section 4."""
    assert risk().mean_questions(accuracy) == pytest.approx(questions, rel=0.006)


def test_the_boundaries_are_known() -> None:
    """Wrong answers of answered ones, same source."""
    fail = {5: 5, 8: 7, 16: 9, 32: 14, 64: 21, 128: 33, 256: 55, 512: 92}
    passing = {64: 0, 128: 4, 256: 15, 512: 42, 768: 74, 1024: 109}
    assert {t: t - boundaries().fail_at_most[t] for t in fail} == fail
    assert {t: t - boundaries().pass_at_least[t] for t in passing} == passing
    assert boundaries().fail_at_most[:5] == (-1,) * 5
    assert boundaries().pass_at_least[:60] == tuple(range(1, 61))


@pytest.mark.parametrize("delta", [0.3, 0.05, 1e-3])
@pytest.mark.parametrize(("asked", "least"), [(1, 1), (9, 1), (30, 30), (45, 37)])
def test_the_boundaries_are_where_the_gate_stops(
    asked: int, least: int, delta: float
) -> None:
    rule = Rule(asked, least)
    found = stopping_boundaries(rule, delta=delta)
    for t in range(1, asked + 1):
        for s in range(t + 1):
            expected = Decision.GO_ON
            if s <= found.fail_at_most[t]:
                expected = Decision.FAIL
            if s >= found.pass_at_least[t]:
                expected = Decision.PASS
            assert weigh(rule, t, s, delta=delta).decision is expected, (t, s)


@pytest.mark.parametrize("least", [1, 3, 6, 8])
def test_the_exact_risk_is_that_of_all_orders(least: int) -> None:
    """Every order of every number of correct answers, run through the gate."""
    rule, delta = Rule(8, least), 0.3
    found = exact_risk(stopping_boundaries(rule, delta=delta))
    other, questions = np.zeros(9), np.zeros(9)
    for answers in itertools.product([False, True], repeat=8):
        final = sum(answers)
        stop = first_stop(rule, answers, delta=delta)
        verdict = Decision.PASS if rule.passes(final) else Decision.FAIL
        share = 1 / math.comb(8, final)
        other[final] += share * (stop.decision is not verdict)
        questions[final] += share * stop.answered
    assert other.max() > 0, "delta too small to see a wrong stop"
    assert found.other_verdict == pytest.approx(other, abs=1e-12)
    assert found.questions == pytest.approx(questions, abs=1e-12)


def simulated_stops(final: int, runs: int, seed: int) -> tuple[float, float]:
    """(share with another verdict, mean number of questions) in random orders."""
    generator = np.random.default_rng(seed)
    answers = np.zeros((runs, GATE.asked), dtype=np.int64)
    answers[:, :final] = 1
    correct = generator.permuted(answers, axis=1).cumsum(axis=1)
    fails = correct <= np.array(boundaries().fail_at_most[1:])
    passes = correct >= np.array(boundaries().pass_at_least[1:])
    stop = (fails | passes).argmax(axis=1)
    passed = passes[np.arange(runs), stop]
    return float((passed != GATE.passes(final)).mean()), float((stop + 1).mean())


@pytest.mark.parametrize("final", [27, 660, 1055, 1121, 1149, 1192])
def test_the_exact_risk_is_that_of_simulated_runs(final: int) -> None:
    other, questions = simulated_stops(final, runs=2000, seed=final)
    # A mean of 2000 runs is off by 0.01 of their spread, which is below the mean.
    assert questions == pytest.approx(risk().questions[final], rel=0.06)
    assert other * 2000 <= 2000 * risk().other_verdict[final] + 6


def test_curtailment_alone_has_no_risk_and_the_known_cost() -> None:
    certain = exact_risk(stopping_boundaries(GATE, delta=1e-300))
    assert certain.other_verdict.max() == 0
    for accuracy, questions in ((0.0205, 175), (0.5, 342), (0.903, 1272)):
        assert certain.mean_questions(accuracy) == pytest.approx(questions, abs=0.6)


def test_a_perfect_and_a_useless_model_are_known_soonest() -> None:
    assert risk().mean_questions(1.0) == risk().questions[1319] == 64
    assert risk().questions[0] == 5
    assert risk().questions.min() == 5


@pytest.mark.parametrize("accuracy", [0, -0.1, 1.1, math.nan])
def test_an_accuracy_out_of_range_is_refused(accuracy: float) -> None:
    with pytest.raises(BadInput, match="accuracy"):
        risk().mean_questions(accuracy)


def test_questions_to_go_are_the_mean_over_every_final_count() -> None:
    """From the start each number correct is equally likely."""
    to_go = questions_to_go(boundaries())
    assert to_go[0, 0] == pytest.approx(risk().questions.mean(), rel=1e-9)
    assert to_go[5, 0] == 0
    assert to_go[4, 0] < 3
    assert (to_go >= 0).all()
    assert (to_go.max(axis=1) <= 1319 - np.arange(1320)).all()
    # On the way of a model at 90.3 % it shrinks.
    assert to_go[100, 90] > to_go[400, 361] > to_go[600, 542] > 0
