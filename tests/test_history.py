"""The history is read from run directories, and a drop is found with its first run."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from mxmoe.conformance.commands.main import main
from mxmoe.conformance.verdict import ExitCode
from mxmoe.evals.gate.answer_lines import FILE
from mxmoe.evals.gate.order import registered_order
from mxmoe.evals.history.scan import scan
from mxmoe.evals.history.text import sparkline
from mxmoe.evals.history.trend import trends

ASKED = 100
Write = Callable[..., Path]


def night(write: Write, number: int, *, wrong: int = 1, **others: object) -> Path:
    marks = {question: question >= wrong for question in range(ASKED)}
    started = f"2026-11-{number + 1:02d}T02:00:00+00:00"
    name = f"n{number:02d}"
    return write(name, marks, started=started, questions=ASKED, **others)


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exited:
        main(["history", *map(str, arguments)])
    return int(exited.value.code or 0)


def test_a_drop_is_found_with_the_night_on_which_it_began(
    write_gate_run: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(12):
        night(write_gate_run, number, wrong=1 + (number < 8 and number % 2))
    assert command(tmp_path) == ExitCode.PASS
    assert "no drop; CUSUM" in capsys.readouterr().out
    for number in range(12, 15):
        night(write_gate_run, number, wrong=20)
    assert command(tmp_path) == ExitCode.FAIL
    said = capsys.readouterr().out
    assert "DROP since 2026-11-13T02:00:00+00:00 (n12), seen with n1" in said
    assert "15 runs of the gate, 0 damaged, 0 others" in said


def test_fewer_than_nine_full_runs_find_nothing_and_say_so(
    write_gate_run: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(8):
        night(write_gate_run, number)
    first = registered_order(ASKED, seed=0)[:60]
    write_gate_run("early", dict.fromkeys(first, True), questions=ASKED)
    assert command(tmp_path) == ExitCode.PASS
    said = capsys.readouterr().out
    assert "no change can be found yet: 1 more full runs (8 are the baseline)" in said
    assert "60 of 60  early  stopped early" in said


def test_another_configuration_is_another_trend(
    write_gate_run: Write, tmp_path: Path
) -> None:
    for number in range(3):
        night(write_gate_run, number)
    night(write_gate_run, 3, dtype="bfloat16")
    night(write_gate_run, 4, fault="biases_not_shuffled", verdict="fail")
    night(write_gate_run, 5, output_tokens=8192)
    found = list(trends(scan(tmp_path).rows))
    assert sorted(len(trend.rows) for trend in found) == [1, 1, 1, 3]


@pytest.mark.parametrize("damage", ["answer", "no answers", "verdict", "json", "kind"])
def test_a_damaged_run_is_named_and_not_counted(
    write_gate_run: Write,
    tmp_path: Path,
    damage: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    night(write_gate_run, 0)
    folder = night(write_gate_run, 1)
    facts = folder / "run.json"
    text = facts.read_text("utf-8")
    if damage == "answer":
        lines = (folder / FILE).read_bytes().replace(b"true", b"fals", 1)
        (folder / FILE).write_bytes(lines)
    elif damage == "no answers":
        (folder / FILE).unlink()
    elif damage == "verdict":
        facts.write_text(text.replace('"pass"', '"fail"'), encoding="utf-8")
    elif damage == "json":
        facts.write_text(text[:-20], encoding="utf-8")
    else:
        facts.write_text(text.replace('"2026-11-02T', '7, "x": "'), encoding="utf-8")
    assert command(tmp_path) == ExitCode.PASS
    said = capsys.readouterr().out
    assert "damaged n01: " in said
    assert "1 runs of the gate, 1 damaged, 0 others" in said


def test_the_database_is_a_cache_that_is_rebuilt(
    write_gate_run: Write, tmp_path: Path
) -> None:
    folder = night(write_gate_run, 0)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    db = tmp_path / "history.sqlite"
    assert command(tmp_path) == ExitCode.PASS
    first = rows(db)
    assert first == [("n00", "pass", 99, 100)]
    with sqlite3.connect(db) as connection:
        connection.execute("DELETE FROM runs")
    connection.close()
    assert command(tmp_path) == ExitCode.PASS
    assert rows(db) == first
    db.unlink()
    assert command(tmp_path, "--db", tmp_path / "elsewhere.db") == ExitCode.PASS
    assert rows(tmp_path / "elsewhere.db") == first
    assert not db.exists()
    assert before == {path: path.read_bytes() for path in folder.iterdir()}


def rows(db: Path) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(db)
    found = connection.execute("SELECT folder, verdict, correct, answered FROM runs")
    listed = list(found)
    connection.close()
    return listed


def test_a_file_that_is_no_database_is_not_overwritten(
    write_gate_run: Write, tmp_path: Path
) -> None:
    night(write_gate_run, 0)
    notes = tmp_path / "notes.txt"
    notes.write_text("do not lose this", encoding="utf-8")
    assert command(tmp_path, "--db", notes) == ExitCode.USAGE
    assert notes.read_text("utf-8") == "do not lose this"
    assert command(tmp_path, "--db", tmp_path / "no" / "such.db") == ExitCode.USAGE


def test_runs_of_other_commands_are_passed_over(
    write_gate_run: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    night(write_gate_run, 0, command="check")
    assert command(tmp_path) == ExitCode.INVALID
    assert "0 runs of the gate, 0 damaged, 1 others" in capsys.readouterr().out
    assert command(tmp_path / "absent") == ExitCode.USAGE


def test_json_names_the_run_with_which_a_drop_began(
    write_gate_run: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(10):
        night(write_gate_run, number, wrong=1 if number < 8 else 40)
    assert command(tmp_path, "--json") == ExitCode.FAIL
    [line] = capsys.readouterr().out.splitlines()
    [found] = json.loads(line)["configurations"]
    assert (found["full"], found["began"], found["missing"]) == (10, "n08", 0)


def test_names_with_escape_codes_are_printed_harmlessly(
    write_gate_run: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    night(write_gate_run, 0, candidate="\x1b[2Jgood", device="\x07bell")
    assert command(tmp_path) == ExitCode.PASS
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "\x07" not in said


@pytest.mark.parametrize(
    ("counts", "line"), [([5], "▁  5..5"), ([1, 8], "▁█  1..8"), ([3, 3], "▁▁  3..3")]
)
def test_a_sparkline_spans_its_counts(counts: list[int], line: str) -> None:
    assert sparkline(counts) == line
