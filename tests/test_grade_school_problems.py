"""The problems of grade_school: right answers, splits apart, the test frozen."""

from __future__ import annotations

import ast
import gzip
import hashlib
import itertools
import operator
import random
import re
from collections import Counter

import pytest

from mxmoe.evals.grade_school import frozen
from mxmoe.evals.grade_school.answers import INVALID
from mxmoe.evals.grade_school.answers import count_correct
from mxmoe.evals.grade_school.answers import extract
from mxmoe.evals.grade_school.generate import SPLITS
from mxmoe.evals.grade_school.generate import TEMPLATES
from mxmoe.evals.grade_school.generate import draw_one
from mxmoe.evals.grade_school.generate import problems
from mxmoe.evals.grade_school.generate import split_of
from mxmoe.evals.grade_school.problem import Problem
from mxmoe.evals.grade_school.template import LARGEST
from mxmoe.evals.grade_school.template import parse_step
from mxmoe.reference.errors import BadInput

TEST = frozen.load_test_problems()
TRAIN = list(itertools.islice(problems("train", 0), 500))
# GSM8K's calculator marks: "4 + 3 = $<<4+3=7>>7".
MARK = re.compile(r"([\d+*/ -]+) = \$?<<([\d+*/-]+)=(\d+)>>(\d+)")
OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def value(expression: str) -> float:
    def of(node: ast.expr) -> float:
        if isinstance(node, ast.BinOp):
            return float(OPERATORS[type(node.op)](of(node.left), of(node.right)))
        assert isinstance(node, ast.Constant)
        return float(node.value)

    return of(ast.parse(expression, mode="eval").body)


def steps(problem: Problem) -> list[str]:
    *lines, last = problem.answer.split("\n")
    assert re.fullmatch(r"#### \d+", last)
    return lines


@pytest.mark.parametrize("made", [TEST, TRAIN], ids=["test", "train"])
def test_every_step_is_right_and_the_last_is_the_answer(made: list[Problem]) -> None:
    for problem in made:
        for line in steps(problem):
            (found,) = MARK.findall(line)
            spaced, tight, marked, written = found
            assert spaced.replace(" ", "").lstrip("-") == tight
            assert value(tight) == int(marked) == int(written)
            assert 1 <= int(marked) <= LARGEST
        assert extract(problem.answer) == written


def test_every_number_of_a_step_was_given_or_computed() -> None:
    """But for the 2, 3, 4 and 7 of halves, averages, legs and weeks."""
    for problem in TEST:
        known = set(re.findall(r"\d+", problem.question)) | {"2", "3", "4", "7"}
        for _, tight, marked, _ in MARK.findall(problem.answer):
            assert set(re.findall(r"\d+", tight)) <= known, problem
            known.add(marked)


def test_no_template_with_its_numbers_is_in_two_splits() -> None:
    for template in TEMPLATES:
        source = random.Random(0)
        for split in SPLITS:
            for _ in range(3):
                key, _ = draw_one(template, split, source)
                assert split_of(template, key) == split


def test_no_question_of_the_test_is_trained_on() -> None:
    assert not {p.question for p in TEST} & {p.question for p in TRAIN}


def test_the_test_is_frozen_and_follows_from_the_templates() -> None:
    lines = gzip.decompress(frozen.PATH.read_bytes())
    assert hashlib.sha256(lines).hexdigest() == frozen.SHA256
    assert lines == frozen.make_lines()
    assert frozen.PATH.stat().st_size < 300_000
    assert len(TEST) == frozen.COUNT == 1319
    assert len({p.question for p in TEST}) == 1319


def test_a_changed_test_file_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pytest.TempPathFactory
) -> None:
    changed = gzip.decompress(frozen.PATH.read_bytes()).replace(b"####", b"###", 1)
    path = tmp_path / "test.jsonl.gz"  # type: ignore[operator]
    path.write_bytes(gzip.compress(changed))
    monkeypatch.setattr(frozen, "PATH", path)
    with pytest.raises(BadInput, match="expected SHA-256"):
        frozen.load_test_problems()


def test_there_are_many_templates_of_one_to_four_steps() -> None:
    assert len({template.name for template in TEMPLATES}) == len(TEMPLATES) >= 60
    counts = Counter(len(template.steps) for template in TEMPLATES)
    assert set(counts) == {1, 2, 3, 4}
    assert min(counts.values()) >= 10


def test_answers_spread_over_one_to_three_digits() -> None:
    """And none is frequent enough to be worth guessing."""
    answers = Counter(extract(problem.answer) for problem in TEST)
    digits = Counter(len(answer) for answer in answers.elements())
    assert min(digits[n] for n in (1, 2, 3)) > 60
    assert max(answers.values()) < 0.03 * len(TEST)


def test_echoing_the_last_number_of_the_question_scores_next_to_nothing() -> None:
    echoes = [f"#### {re.findall(r'[0-9]+', p.question)[-1]}" for p in TEST]
    assert count_correct(TEST, echoes) < 0.03 * len(TEST)


def test_the_same_seed_gives_the_same_problems() -> None:
    assert list(itertools.islice(problems("train", 0), 50)) == TRAIN[:50]
    assert list(itertools.islice(problems("train", 1), 50)) != TRAIN[:50]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (" 4 + 3 = <<4+3=7>>7.\n#### 7", "7"),
        ("#### 1,234.", "1234"),
        ("#### -3", "-3"),
        ("#### 7\n#### 8", "7"),
        ("####7", INVALID),
        ("The answer is 7", INVALID),
        ("!!!!", INVALID),
        ("", INVALID),
    ],
)
def test_the_strict_extraction(text: str, number: str) -> None:
    assert extract(text) == number


@pytest.mark.parametrize("text", ["no step", "[x=a]", "[x=a+b*c]", "[x=a+-b]"])
def test_what_is_not_a_step_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match=r"^step: expected"):
        parse_step(text)
