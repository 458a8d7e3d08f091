"""GSM8K's questions: read from files or the hub, hashed, and refused if damaged."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mxmoe.evals.gsm8k.data import Row
from mxmoe.evals.gsm8k.data import read_gsm8k
from mxmoe.evals.gsm8k.data import rows_sha256
from mxmoe.reference.errors import BadInput

LINE = '{"question": "How many?", "answer": "#### 4"}\n'


def test_the_real_questions_have_their_published_hash(real_gsm8k: Path) -> None:
    found = read_gsm8k(real_gsm8k)
    assert (len(found.test), len(found.train)) == (1319, 7473)
    # The hash of openai/grade-school-math's file: one row is hashed as it stands there.
    assert found.sha256 == (
        "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14"
    )


def test_a_folder_and_its_test_file_are_the_same(
    write_gsm8k: Callable[[Path], Path], tmp_path: Path
) -> None:
    folder = write_gsm8k(tmp_path)
    by_folder, by_file = read_gsm8k(folder), read_gsm8k(folder / "test.jsonl")
    assert (by_folder.test, by_folder.train) == (by_file.test, by_file.train)


def test_the_variable_names_the_data(
    write_gsm8k: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MXMOE_GSM8K", str(write_gsm8k(tmp_path)))
    assert read_gsm8k().origin == str(tmp_path)


def test_the_hash_is_of_the_texts_and_their_order() -> None:
    rows = [Row("a", "#### 1"), Row("b", "#### 2")]
    assert rows_sha256(rows) != rows_sha256(rows[::-1])
    assert rows_sha256(rows) != rows_sha256([Row("a", "#### 1"), Row("b", "#### 3")])
    assert rows_sha256([Row("ab", "#### 1")]) != rows_sha256([Row("a", "b#### 1")])


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        "7",
        '{"question": "How many?"}',
        '{"question": 5, "answer": "#### 4"}',
        '{"question": "", "answer": "#### 4"}',
        '{"question": "How many?", "answer": "four"}',
        '{"question": "How many?", "answer": "#### "}',
        "[" * 100_000,
    ],
)
def test_a_damaged_line_is_refused_by_number(
    write_gsm8k: Callable[[Path], Path], tmp_path: Path, line: str
) -> None:
    write_gsm8k(tmp_path)
    (tmp_path / "test.jsonl").write_text(LINE + line + "\n", encoding="utf-8")
    with pytest.raises(BadInput, match=r"test\.jsonl:2: expected"):
        read_gsm8k(tmp_path)


@pytest.mark.parametrize("name", ["test.jsonl", "train.jsonl"])
def test_a_missing_or_empty_file_is_refused(
    write_gsm8k: Callable[[Path], Path], tmp_path: Path, name: str
) -> None:
    write_gsm8k(tmp_path)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(BadInput, match="expected questions, found none"):
        read_gsm8k(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(BadInput, match="expected GSM8K's questions, found"):
        read_gsm8k(tmp_path)
    (tmp_path / name).write_bytes(b"\xff\xfe")
    with pytest.raises(BadInput, match="expected GSM8K's questions, found"):
        read_gsm8k(tmp_path)


def test_a_file_of_another_size_altogether_is_not_read(
    write_gsm8k: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mxmoe.evals.gsm8k.data._LARGEST", 10)
    with pytest.raises(BadInput, match="expected at most 10 bytes"):
        read_gsm8k(write_gsm8k(tmp_path))


def test_without_data_and_network_the_ways_in_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.delenv("MXMOE_GSM8K", raising=False)
    if importlib.util.find_spec("datasets"):
        monkeypatch.setattr("datasets.load_dataset", offline)
    with pytest.raises(BadInput, match="expected --data, MXMOE_GSM8K or"):
        read_gsm8k()


def test_no_question_is_part_of_the_package(real_gsm8k: Path) -> None:
    data = read_gsm8k(real_gsm8k)
    root = Path(__file__).parents[1]
    files = [
        path
        for folder in ("evals", "tests", "docs", "conformance")
        for path in (root / folder).rglob("*")
        if path.suffix in (".py", ".json", ".md", ".jsonl", ".yaml")
    ]
    assert len(files) > 100
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    assert not [r for r in data.test if json.dumps(r.question)[1:-1] in text]
