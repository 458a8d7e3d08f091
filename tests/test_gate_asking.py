"""A gate's verdict depends on the answers, not on how they came or what was killed."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxmoe.evals.gate.answer_lines import AnswerLine
from mxmoe.evals.gate.answer_lines import read_answers
from mxmoe.evals.gate.asking import Plan
from mxmoe.evals.gate.asking import ask_until_decided
from mxmoe.evals.gate.evidence import Decision
from mxmoe.evals.gate.evidence import first_stop
from mxmoe.evals.gate.order import registered_order
from mxmoe.evals.gate.rule import Rule
from mxmoe.reference.errors import BadInput

ASKED = 60
PLAN = Plan(rule=Rule(ASKED, 50), order=registered_order(ASKED, seed=3), batch=16)


class Killed(Exception):
    """What a test's model raises in the place of a signal."""


class Model:
    """Answers `correct`; finishes each batch in an order of its own."""

    def __init__(
        self, correct: Sequence[bool], *, seed: int = 0, dies_after: int = 10**9
    ) -> None:
        self.correct, self.random, self.left = correct, Random(seed), dies_after
        self.asked: list[int] = []

    def __call__(self, questions: Sequence[int]) -> Iterator[AnswerLine]:
        self.asked += questions
        for question in self.random.sample(questions, len(questions)):
            if not self.left:
                raise Killed
            self.left -= 1
            yield AnswerLine(
                question=question,
                prompt_sha256="",
                text="",
                extracted="",
                correct=self.correct[question],
                tokens=1,
                finish_reason="stop",
                finite=True,
                seconds=0.0,
            )


def in_order(correct: Sequence[bool]) -> list[bool]:
    return [correct[question] for question in PLAN.order]


marks = st.lists(st.booleans(), min_size=ASKED, max_size=ASKED) | st.integers(
    35, ASKED
).map(lambda k: [n * 7 % ASKED < k for n in range(ASKED)])


@given(marks, st.integers(0, 3))
def test_the_order_of_finishing_does_not_count(
    tmp_path_factory: pytest.TempPathFactory, correct: list[bool], seed: int
) -> None:
    run = tmp_path_factory.mktemp("run")
    found = ask_until_decided(PLAN, Model(correct, seed=seed), run)
    assert found.standing == first_stop(PLAN.rule, in_order(correct))
    counted = [line.question for line in found.counted]
    assert counted == list(PLAN.order[: len(counted)])


@given(marks, st.lists(st.integers(0, 20), max_size=4))
def test_a_killed_run_goes_on_and_asks_nothing_twice(
    tmp_path_factory: pytest.TempPathFactory, correct: list[bool], kills: list[int]
) -> None:
    run = tmp_path_factory.mktemp("run")
    for seed, dies_after in enumerate(kills):
        before = set(read_answers(run))
        model = Model(correct, seed=seed, dies_after=dies_after)
        try:
            ask_until_decided(PLAN, model, run)
        except Killed:
            assert not before & set(model.asked)
    found = ask_until_decided(PLAN, Model(correct, seed=9), run)
    assert found.standing == first_stop(PLAN.rule, in_order(correct))


def test_a_decided_run_asks_nothing(tmp_path: Path) -> None:
    first = ask_until_decided(PLAN, Model([False] * ASKED), tmp_path)
    again = Model([True] * ASKED)
    assert ask_until_decided(PLAN, again, tmp_path).standing == first.standing
    assert first.standing.decision is Decision.FAIL
    assert again.asked == []


def test_the_first_question_is_asked_alone(tmp_path: Path) -> None:
    sizes: list[int] = []
    model = Model([True] * ASKED)

    def ask(questions: Sequence[int]) -> Iterator[AnswerLine]:
        sizes.append(len(questions))
        return model(questions)

    ask_until_decided(PLAN, ask, tmp_path)
    assert sizes[:3] == [1, 7, 16]


def test_an_answer_nobody_asked_for_is_refused(tmp_path: Path) -> None:
    def ask(_questions: Sequence[int]) -> Iterator[AnswerLine]:
        return Model([True] * (ASKED + 1))([ASKED])

    with pytest.raises(BadInput, match="answer to question 60: expected one of the 60"):
        ask_until_decided(PLAN, ask, tmp_path)
