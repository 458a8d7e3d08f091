"""What a report says, and that it says nothing that the runs do not."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from mxmoe.conformance.judging.experts_reached import Reached
from mxmoe.conformance.rundir import RunWriter
from mxmoe.conformance.rundir import VerdictLine
from mxmoe.conformance.verdict import Verdict
from mxmoe.evals.gate.evidence import log_evidence
from mxmoe.evals.gate.rule import Rule
from mxmoe.evals.report.build import build_report
from mxmoe.evals.report.document import Cell
from mxmoe.evals.report.document import Mark
from mxmoe.evals.report.document import Report
from mxmoe.evals.report.document import Section
from mxmoe.evals.report.document import Table
from mxmoe.evals.report.write import write_report
from mxmoe.reference.errors import BadInput

Runs = dict[str, Path]
# Of the gates in conftest.py.
RULE = Rule(40, 30)


def section(report: Report, key: str) -> Section:
    (found,) = (one for one in report.sections if one.key == key)
    return found


def cells(table: Table) -> dict[str, dict[str, Cell]]:
    return {
        row[0].text: dict(zip(table.columns, row, strict=True)) for row in table.rows
    }


@pytest.fixture(scope="module")
def report(runs: Runs) -> Report:
    chosen = ("right", "wrong", "gate00", "faults", "bench", "bisect")
    return build_report([runs[name] for name in chosen], baseline=runs["gate19"])


def test_the_worst_candidate_comes_first_with_its_explanation(report: Report) -> None:
    told = {one.candidate: (one.answer, one.mark) for one in report.statements}
    assert list(told) == ["wrong", "away", "right"]
    assert told["wrong"] == ("No", Mark.BAD)
    assert told["away"] == ("Not known", Mark.IDLE)
    assert told["right"] == ("Yes, as far as judged", Mark.GOOD)
    reason = report.statements[0].reason
    assert reason.startswith("fc1_bias: missing: row shuffle 32 (2 checks).")
    assert "3 of 4 checks failed." in reason
    assert report.mark is Mark.BAD


def test_levels_that_nothing_judged_are_named_with_their_command(
    report: Report,
) -> None:
    right = report.statements[2]
    said = {level.level: level.said for level in right.levels}
    assert said["L3"] == "ok 1"
    assert said["L5"] == "PASS 40 of 40"
    assert said["L0"] == "not run"
    assert any("L0 formats" in c and "mxmoe check -c right" in c for c in right.caveats)
    wrong = report.statements[0]
    assert any("mxmoe gate -c wrong.py:c" in caveat for caveat in wrong.caveats)


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        ({"execution": "emulated"}, "Yes, but only emulated"),
        ({"execution": "unexecuted"}, "Unexecuted"),
    ],
)
def test_what_ran_elsewhere_is_never_a_plain_yes(
    change: dict[str, str], answer: str, copied: Any
) -> None:
    folder = copied("right", candidates=change)
    (one,) = build_report([folder]).statements
    assert (one.answer, one.mark) == (answer, Mark.NOTE)


@pytest.mark.parametrize("verdict", ["verdict: INVALID interrupted", None])
def test_a_run_that_broke_down_proves_nothing(verdict: str | None, copied: Any) -> None:
    folder = copied("right", verdict=verdict)
    (one,) = build_report([folder]).statements
    assert (one.answer, one.mark) == ("Not known", Mark.IDLE)


def test_a_gate_alone_is_no_plain_yes_where_nobody_says_what_ran(runs: Runs) -> None:
    (one,) = build_report([runs["gate00"]]).statements
    assert one.mark is Mark.NOTE
    assert one.answer == "Yes, but where it ran is not recorded"


def test_failures_with_one_explanation_are_one_group(report: Report) -> None:
    first, second = section(report, "failures").groups
    assert [check for check, _, _ in first.checks] == [
        f"test_prepared_bytes_match_the_layout[wrong-layer0-{rank}-fc1_bias]"
        for rank in ("tp1r0", "tp8r7")
    ]
    assert first.why == "fc1_bias: missing: row shuffle 32; fc1_weights: as specified"
    assert first.again == "mxmoe check -k x"
    assert Path(first.bundle, "case.json").is_file()
    assert len(second.checks) == 1


def test_the_matrix_has_the_worst_error_of_each_stage_and_group_of_ranks(
    report: Report,
) -> None:
    right, wrong = section(report, "matrix").tables
    assert cells(right)["combine"]["tp2"].text == "ok 0.5"
    assert cells(right)["combine"]["one rank"].text == "ok 0.25"
    found = cells(wrong)
    assert found["gate_up"]["one rank"].text == "FAIL 5"
    assert found["prepared bytes"]["tp8"].text == "FAIL 1 of 1"
    assert found["gate_up"]["tp8"].text == "not run"


def test_the_attribution_matrix_has_a_cell_for_each_way(report: Report) -> None:
    found = section(report, "attribution")
    (table,) = found.tables
    rows = cells(table)
    assert rows["your prepare"]["your forward"].mark is Mark.BAD
    assert rows["your prepare"]["our consumer"].mark is Mark.IDLE
    assert rows["our prepare"]["your forward"].mark is Mark.GOOD
    assert found.says == ("wrong: your kernel is right, your bytes are wrong.",)


def test_what_was_not_run_is_counted_with_its_reason(report: Report) -> None:
    (table,) = section(report, "not-run").tables
    rows = [[cell.text for cell in row] for row in table.rows]
    assert ["right", "L3", "not run", "declares no tactics", "1"] in rows
    assert ["away", "all", "not run", "no", "1"] in rows


def test_a_permutation_is_drawn_as_it_is(report: Report) -> None:
    picture, mask = section(report, "failures").groups[0].pictures
    here, there = picture.data["found_at"], picture.data["belongs_at"]
    assert sorted(there) == list(here) == list(range(64))
    assert there != here
    assert mask.data["of"] == 2 * 64 * 16


def test_the_heat_map_names_the_experts_that_are_wrong(report: Report) -> None:
    heat, sizes, mask = section(report, "failures").groups[1].pictures
    # Experts 0 and 3 share a token with expert 2; expert 1 does not.
    assert dict(zip(heat.data["experts"], heat.data["worst"], strict=True)) == {
        0: 5.0,
        1: 0.25,
        2: 5.0,
        3: 5.0,
    }
    assert mask.data == {"beyond": 16, "of": 128}
    assert sum(sizes.data["counts"]) == 128


def test_the_gate_shows_the_evidence_that_it_stopped_on(runs: Runs) -> None:
    report = build_report([runs["gate19"]])
    path, evidence = section(report, "gate").pictures
    assert path.data["wrong"][-1] == 12
    last = evidence.data["answered"][-1]
    assert last == 40
    to_fail = dict(evidence.data["to_fail"])
    expected = log_evidence(RULE, 5, 0)[0]
    assert to_fail[5] == pytest.approx(expected / 2.302585, rel=1e-5)
    assert report.statements[0].answer == "No"


def test_flips_name_the_questions_that_were_lost(runs: Runs) -> None:
    report = build_report([runs["gate15"]], baseline=runs["gate00"])
    found = section(report, "flips")
    (table,) = found.details
    assert len(table.rows) == 12
    assert {row[1].text for row in table.rows} == {"lost"}
    assert all(row[2].text.endswith("?") for row in table.rows)
    assert "is worse than the baseline" in found.says[0]
    assert found.mark is Mark.BAD


def test_a_kept_comparison_is_shown_with_its_questions(runs: Runs) -> None:
    found = section(build_report([runs["compare"]]), "flips")
    (row,) = cells(found.tables[0]).values()
    assert row["verdict"].text == "inconclusive"
    assert row["detectable"].text == "none"
    (flip,) = cells(found.details[0]).values()
    assert (flip["flip"].text, flip["run wrote"].text) == ("lost", "night")


@pytest.mark.parametrize(
    "damage", [{"interval": [0]}, {"drop": "nan"}, {"flips": [3]}, {"lost": 3}]
)
def test_a_damaged_comparison_is_refused(
    damage: dict[str, Any], runs: Runs, tmp_path: Path
) -> None:
    kept = json.loads((runs["compare"] / "run.json").read_text())
    kept["compared"] |= damage
    (tmp_path / "run.json").write_text(json.dumps(kept))
    with pytest.raises(BadInput, match="expected a comparison, found"):
        build_report([tmp_path])


def test_experts_that_no_judged_token_visited_are_named_in_the_statement(
    tmp_path: Path,
) -> None:
    line = VerdictLine(
        check="test_l3_numbers.py::test_output_stays_within_the_bound[mine]",
        candidate="mine",
        level="L3",
        verdict=Verdict.OK,
        reached=(
            Reached(where="e1", experts=1, ids=(0,)),
            Reached(where="layer0", experts=8, ids=(0, 1, 6)),
        ),
    )
    writer = RunWriter(tmp_path / "run")
    writer.verdict(line)
    writer.describe(
        command="check", candidates=[{"name": "mine"}], verdict="verdict: PASS mine"
    )
    report = build_report([tmp_path / "run"])
    said = "all in e1; 3 of 8 in layer0, not 2, 3, 4, 5, ..."
    (statement,) = report.statements
    assert dict(statement.facts)["experts reached"] == said
    write_report(report, tmp_path / "page")
    page = (tmp_path / "page" / "report.html").read_text("utf-8")
    assert f"<dt>experts reached</dt><dd>{said}</dd>" in page


def test_the_trend_finds_the_night_of_the_change(runs: Runs) -> None:
    nights = [runs[f"gate{night:02d}"] for night in reversed(range(20))]
    found = section(build_report(nights), "trend")
    assert found.says == (
        "right: the score fell. Change begins at gate15, seen at gate16.",
    )
    assert found.pictures[0].data["right"][14:16] == [40, 28]


def test_too_few_nights_say_how_many_are_missing(runs: Runs) -> None:
    nights = [runs[f"gate{night:02d}"] for night in range(3)]
    assert "3 whole runs" in section(build_report(nights), "trend").says[0]


def test_the_kill_matrix_shows_survivors(report: Report) -> None:
    found = section(report, "credentials")
    assert found.says[0].startswith("1 of 2 planted faults were caught")
    assert found.says[1] == "Survived: another_fault."
    rows = cells(found.tables[0])
    assert rows["another_fault"]["first check"].text == "SURVIVED"
    assert rows["a_fault"]["L3"].text == "caught"


def test_a_refused_contestant_has_no_time(report: Report) -> None:
    found = section(report, "speed")
    row = cells(found.tables[0])["64"]
    assert row["ours"].text == "74.0 ±1.0"
    assert row["refused"].text == "refused: out of bound: ours"
    roofline, times = found.pictures
    assert "ridge is at 100" in roofline.says
    assert "refused" not in times.svg


def test_a_run_without_a_section_is_shown_as_it_stands(report: Report) -> None:
    plain, steps = section(report, "other").tables
    assert cells(plain)["verdict"]["value"].text == "verdict: FAIL"
    assert cells(steps)["3"]["ok"].text == "false"


def test_every_empty_section_names_a_command_that_exists(runs: Runs) -> None:
    report = build_report([runs["bisect"]])
    empty = [one for one in report.sections if one.empty]
    assert len(empty) == 10
    known = {entry.name for entry in metadata.entry_points(group="mxmoe.commands")}
    for one in empty:
        program, command, *_ = one.fill.split()
        assert program == "mxmoe"
        assert command in known


def test_no_picture_is_drawn_from_outside_of_the_run(copied: Any) -> None:
    folder = copied("wrong", bundles="../bundles/")
    groups = section(build_report([folder]), "failures").groups
    assert groups[0].bundle
    assert Path(groups[0].bundle, "tensors.safetensors").exists()
    assert not any(group.pictures for group in groups)


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("faults.jsonl", '{"fault": 3}\n', "expected a fault line"),
        ("verdicts.jsonl", "[]\n", "expected a verdict"),
        ("answers.jsonl", "{}\n", "expected an answer"),
        ("run.json", "{", "expected JSON"),
    ],
)
def test_a_damaged_run_is_refused_in_one_sentence(
    file: str, content: str, expected: str, copied: Any
) -> None:
    folder = copied("right")
    (folder / file).write_text(content)
    with pytest.raises(BadInput, match=expected):
        build_report([folder])


def test_a_baseline_must_be_a_gate(runs: Runs) -> None:
    with pytest.raises(BadInput, match="expected the run of a gate"):
        build_report([runs["right"]], baseline=runs["right"])


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="expected a run directory"):
        build_report([tmp_path])
