"""The floor: what repeating the question's last number scores."""

from __future__ import annotations

import json
import os
from decimal import Decimal
from pathlib import Path

import pytest

from mxmoe.evals.gate.floor import BROKEN_AT_MOST
from mxmoe.evals.gate.floor import Cause
from mxmoe.evals.gate.floor import count_echoed
from mxmoe.evals.gate.floor import highest_accuracy
from mxmoe.evals.gate.floor import last_number
from mxmoe.evals.gate.floor import likely_cause
from mxmoe.evals.grade_school.frozen import load_test_problems
from mxmoe.reference.errors import BadInput


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("He has 3 apples and 1,250.50 pears.", "1250.5"),
        ("How much is left of $6.00, in dollars?", "6"),
        ("It is -3 degrees.", "-3"),
        ("Children of 5-7 years?", "7"),
        ("7. What follows?", "7"),
        ("1,000,000, or more?", "1000000"),
        ("work <<2+2=4>>4\n#### 18", "18"),
    ],
)
def test_the_last_number_is_read_by_value(text: str, number: str) -> None:
    assert last_number(text) == Decimal(number)


def test_a_question_without_a_number_is_not_echoed() -> None:
    assert last_number("How many?") is None
    assert count_echoed(["How many?", "Of 4?"], ["#### 4", "#### 4.0"]) == 1


def test_the_program_scores_one_percent_of_grade_school() -> None:
    problems = load_test_problems()
    questions = [problem.question for problem in problems]
    answers = [problem.answer for problem in problems]
    assert count_echoed(questions, answers) == 11
    assert count_echoed(answers, answers) == len(problems)


def test_the_program_scores_two_percent_of_gsm8k() -> None:
    folder = os.environ.get("MXMOE_GSM8K")
    shared = Path(__file__).parents[2] / "shared" / "data" / "gsm8k"
    path = Path(folder or shared) / "test.jsonl"
    if not path.exists():
        pytest.skip("GSM8K's test.jsonl is not here; MXMOE_GSM8K names its folder")
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    questions = [row["question"] for row in rows]
    answers = [row["answer"] for row in rows]
    assert (count_echoed(questions, answers), len(rows)) == (30, 1319)
    # No score within reach of the program counts as a regression.
    assert 100 * 2 * 30 / 1319 < BROKEN_AT_MOST


@pytest.mark.parametrize(
    ("correct", "answered", "cause"),
    [
        (27, 1319, Cause.BROKEN_NUMERICS),
        (0, 5, Cause.BROKEN_NUMERICS),
        (5, 100, Cause.BROKEN_NUMERICS),
        (65, 1319, Cause.BROKEN_NUMERICS),
        (66, 1319, Cause.REGRESSION),
        (6, 100, Cause.REGRESSION),
        (1, 8, Cause.REGRESSION),
        (1148, 1319, Cause.REGRESSION),
    ],
)
def test_five_percent_or_less_is_broken_numerics(
    correct: int, answered: int, cause: Cause
) -> None:
    assert likely_cause(correct, answered) is cause


def test_a_few_answers_leave_much_accuracy_possible() -> None:
    # (1 - p)^5 = 0.05.
    assert highest_accuracy(0, 5) == pytest.approx(1 - 0.05 ** (1 / 5))
    assert highest_accuracy(27, 1319) < 0.03
    assert highest_accuracy(5, 5) == 1


@pytest.mark.parametrize(("correct", "answered"), [(0, 0), (2, 1), (-1, 5), (None, 5)])
def test_counts_that_cannot_be_are_refused(correct: int, answered: int) -> None:
    with pytest.raises(BadInput):
        likely_cause(correct, answered)
    with pytest.raises(BadInput):
        highest_accuracy(correct, answered)


def test_gold_answers_must_fit_the_questions() -> None:
    with pytest.raises(BadInput, match="expected 2, one a question, found 1"):
        count_echoed(["1", "2"], ["1"])
    with pytest.raises(BadInput, match="gold answer 1: expected a number"):
        count_echoed(["1", "2"], ["1", "none"])
