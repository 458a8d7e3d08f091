"""Answers outlive their writer: none is lost, none is doubled."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxmoe.evals.gate.answer_lines import FILE
from mxmoe.evals.gate.answer_lines import AnswerLine
from mxmoe.evals.gate.answer_lines import append_answer
from mxmoe.evals.gate.answer_lines import read_answers
from mxmoe.evals.gate.answer_lines import resume_answers
from mxmoe.reference.errors import BadInput

LINE = AnswerLine(
    question=0,
    prompt_sha256="ab",
    text="two\nlines, \N{GREEK SMALL LETTER ALPHA} and \u2028",
    extracted="55",
    correct=True,
    tokens=7,
    finish_reason="stop",
    finite=True,
    seconds=0.5,
)
LINES = [replace(LINE, question=n, text=LINE.text * n) for n in range(4)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("whole")
    for line in LINES:
        append_answer(folder, line)
    return (folder / FILE).read_bytes()


def test_answers_come_back_as_they_were(tmp_path: Path) -> None:
    assert read_answers(tmp_path) == {}
    for line in LINES:
        append_answer(tmp_path, line)
    assert list(read_answers(tmp_path).values()) == LINES


@given(st.data())
def test_a_writer_killed_at_any_byte_loses_one_answer_at_most(
    whole: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("killed")
    written = data.draw(st.integers(0, len(whole)), label="bytes")
    (folder / FILE).write_bytes(whole[:written])
    answered = resume_answers(folder)
    assert list(answered) == list(range(whole[:written].count(b"\n")))
    for line in LINES:
        if line.question not in answered:
            append_answer(folder, line)
    assert (folder / FILE).read_bytes() == whole


def test_a_doubled_question_is_refused(tmp_path: Path) -> None:
    append_answer(tmp_path, LINE)
    append_answer(tmp_path, LINE)
    with pytest.raises(BadInput, match=r"jsonl:2: expected one answer a question"):
        read_answers(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [("question", True), ("question", 1.0), ("correct", 1), ("text", None)],
)
def test_a_line_of_another_kind_is_refused(
    tmp_path: Path, name: str, value: object
) -> None:
    append_answer(tmp_path, LINE)
    facts = json.loads((tmp_path / FILE).read_bytes()) | {name: value}
    (tmp_path / FILE).write_text(json.dumps(facts) + "\n", encoding="utf-8")
    with pytest.raises(BadInput, match=f"expected an answer, found {name}"):
        read_answers(tmp_path)


def test_a_line_that_is_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"{]\n")
    with pytest.raises(BadInput, match=r"jsonl:1: expected an answer"):
        read_answers(tmp_path)
