"""A broken model is named before its score is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mxmoe.evals.gate.answer_lines import AnswerLine
from mxmoe.evals.gate.health import Baseline
from mxmoe.evals.gate.health import complaints
from mxmoe.evals.gate.health import repeats
from mxmoe.evals.grade_school.frozen import load_test_problems

GOOD = "Adam has 38 + 17 = <<38+17=55>>55 shells now.\n#### 55"
LINE = AnswerLine(
    question=0,
    prompt_sha256="",
    text=GOOD,
    extracted="55",
    correct=True,
    tokens=30,
    finish_reason="stop",
    finite=True,
    seconds=1.0,
)
ANSWERS = [replace(LINE, question=n) for n in range(20)]
BASELINE = Baseline(tokens=(30,) * 1319)


def found(**changes: object) -> list[str]:
    """The complaints when the last three of the answers are changed."""
    wrong = [replace(line, **changes) for line in ANSWERS[-4:]]  # type: ignore[arg-type]
    return complaints([*ANSWERS[:-4], *wrong], BASELINE)


def test_a_healthy_run_has_none() -> None:
    assert complaints(ANSWERS, BASELINE) == []


def test_a_run_without_answers_is_not_healthy() -> None:
    assert complaints([], BASELINE) == ["no question was answered"]


def test_one_answer_that_is_not_finite_is_enough() -> None:
    [said] = complaints([*ANSWERS[1:], replace(LINE, finite=False)], BASELINE)
    assert said == ("1 of 20 answers had logits that are not finite, first question 0")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"finish_reason": "length"}, "4 of 20 answers were cut"),
        ({"text": "!" * 40}, "4 of 20 answers repeat one word"),
        ({"tokens": 160}, "answers have 1.87 times the tokens"),
    ],
)
def test_signs_beyond_the_margin_are_named(
    changes: dict[str, object], said: str
) -> None:
    [line] = found(**changes)
    assert line.startswith(said)


def test_one_answer_that_is_cut_is_no_sign() -> None:
    cut = replace(LINE, finish_reason="length", tokens=40)
    assert complaints([*ANSWERS[1:], cut], BASELINE) == []


def test_short_answers_are_noticed() -> None:
    short = [replace(line, tokens=20) for line in ANSWERS]
    [line] = complaints(short, BASELINE)
    assert line.startswith("answers have 0.67 times the tokens")


@pytest.mark.parametrize("text", ["!" * 12, "the " * 30, "a b " * 20])
def test_degenerate_text_repeats(text: str) -> None:
    assert repeats(text)


def test_no_gold_answer_repeats() -> None:
    assert not any(repeats(problem.answer) for problem in load_test_problems())
