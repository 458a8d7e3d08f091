"""The order: fixed, random, and kept whatever order the answers finish in."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from mxmoe.evals.gate.evidence import Decision
from mxmoe.evals.gate.evidence import first_stop
from mxmoe.evals.gate.order import InOrder
from mxmoe.evals.gate.order import registered_order
from mxmoe.evals.gate.rule import Rule
from mxmoe.reference.errors import BadInput

GATE = Rule(1319, 1149)
# A model that must fail: 85 % of all questions.
FAILING = 1121


def test_the_order_is_the_same_everywhere() -> None:
    # Part of the protocol: a change makes runs incomparable.
    assert registered_order(10, seed=0) == (4, 0, 6, 9, 7, 2, 1, 5, 8, 3)
    assert registered_order(1319, seed=0)[:4] != registered_order(1319, seed=1)[:4]


@given(st.integers(1, 400), st.integers(0, 2**32))
def test_every_question_is_asked_once(asked: int, seed: int) -> None:
    assert sorted(registered_order(asked, seed=seed)) == list(range(asked))


def test_every_question_is_equally_likely_at_every_place() -> None:
    counts = np.zeros((6, 6))
    for seed in range(3000):
        counts[range(6), registered_order(6, seed=seed)] += 1
    # 500 expected in each of 36 cells, sd 20: five of them for the largest.
    assert abs(counts - 500).max() < 100


@given(st.data())
def test_answers_come_out_in_the_registered_order(data: st.DataObject) -> None:
    asked = data.draw(st.integers(1, 30))
    order = registered_order(asked, seed=data.draw(st.integers(0, 9)))
    finishing = data.draw(st.permutations(order))
    stop = data.draw(st.integers(0, asked))
    gate = InOrder[str](order)
    out = [r for q in finishing[:stop] for r in gate.finish(q, f"answer {q}")]
    assert out == [(q, f"answer {q}") for q in order[: len(out)]]
    assert gate.released == len(out)
    assert set(gate.missing) == set(finishing[stop:])
    assert set(gate.waiting) == set(finishing[:stop]) - set(order[: len(out)])
    # Nothing is held back that could go: the next one is the first that is missing.
    assert stop == asked or gate.missing[0] == order[len(out)]


@settings(max_examples=60)
@given(st.data())
def test_any_completion_order_gives_the_verdict_of_the_registered_order(
    data: st.DataObject,
) -> None:
    asked = data.draw(st.integers(1, 60))
    rule = Rule(asked, data.draw(st.integers(1, asked)))
    order = registered_order(asked, seed=data.draw(st.integers(0, 99)))
    accuracy = data.draw(st.floats(0, 1))
    chance = random.Random(data.draw(st.integers(0, 99)))
    correct = [chance.random() < accuracy for _ in range(asked)]
    how = data.draw(st.sampled_from(["right first", "wrong first", "any"]))
    finishing = data.draw(st.permutations(range(asked)))
    if how != "any":
        finishing.sort(key=lambda q: correct[q] != (how == "right first"))
    gate = InOrder[bool](order)
    released = (answer for q in finishing for _, answer in gate.finish(q, correct[q]))
    registered = (correct[q] for q in order)
    delta = data.draw(st.sampled_from([1e-3, 0.05, 0.3]))
    assert first_stop(rule, released, delta=delta) == first_stop(
        rule, registered, delta=delta
    )


def finishing_order(
    correct: np.ndarray, order: tuple[int, ...], *, concurrency: int, seed: int
) -> list[int]:
    """As a server finishes them whose wrong answers are three times as long."""
    generator = np.random.default_rng(seed)
    lengths = generator.gamma(4.0, np.where(correct, 1.0, 3.0))
    slots = np.zeros(concurrency)
    ends = np.empty(len(order))
    for question in order:
        slot = int(slots.argmin())
        slots[slot] += lengths[question]
        ends[question] = slots[slot]
    return [int(q) for q in ends.argsort()]


def test_counting_answers_as_they_finish_passes_a_model_that_must_fail() -> None:
    """The fault, planted: without the order a sound test is fooled; with it, not."""
    as_finished, in_order = [], []
    for seed in range(4):
        order = registered_order(GATE.asked, seed=seed)
        correct = np.zeros(GATE.asked, dtype=bool)
        chosen = np.random.default_rng(seed).permutation(GATE.asked)[:FAILING]
        correct[chosen] = True
        finishing = finishing_order(correct, order, concurrency=256, seed=seed)
        gate = InOrder[bool](order)
        released = (a for q in finishing for _, a in gate.finish(q, bool(correct[q])))
        as_finished.append(first_stop(GATE, correct[finishing]).decision)
        in_order.append(first_stop(GATE, released).decision)
    assert as_finished == [Decision.PASS] * 4
    assert in_order == [Decision.FAIL] * 4


def test_a_second_answer_is_refused_before_and_after_its_release() -> None:
    gate = InOrder[bool]((2, 0, 1))
    gate.finish(0, False)
    with pytest.raises(BadInput, match="question 0: expected one, found a second"):
        gate.finish(0, True)
    assert gate.finish(2, True) == [(2, True), (0, False)]
    for question in (0, 2):
        with pytest.raises(BadInput, match="found a second"):
            gate.finish(question, True)
    assert gate.finish(1, True) == [(1, True)]
    assert gate.missing == ()


def test_an_answer_that_nobody_asked_for_is_refused() -> None:
    with pytest.raises(BadInput, match="question 3: expected one of the 3"):
        InOrder[bool]((2, 0, 1)).finish(3, True)


def test_an_order_with_a_question_twice_is_refused() -> None:
    with pytest.raises(BadInput, match="expected 3 different questions, found 2"):
        InOrder[bool]((0, 1, 0))


def test_a_run_of_no_questions_is_refused() -> None:
    with pytest.raises(BadInput, match="asked"):
        registered_order(0, seed=0)
