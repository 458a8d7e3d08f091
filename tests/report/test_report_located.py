"""What a report says of a search: the path to each place, and what it did not see."""

from __future__ import annotations

from pathlib import Path

import pytest

from mxmoe.conformance.rundir import RunWriter
from mxmoe.evals.report.build import build_report
from mxmoe.evals.report.document import Mark
from mxmoe.evals.report.document import Report
from mxmoe.evals.report.document import Section

Runs = dict[str, Path]


def located(report: Report) -> Section:
    (found,) = (one for one in report.sections if one.key == "located")
    return found


def test_what_was_located_is_a_path_with_explanation_bundle_and_pictures(
    runs: Runs,
) -> None:
    report = build_report([runs["locate"]])
    found = located(report)
    (row,) = found.tables[0].rows
    path = dict(zip(found.tables[0].columns, row, strict=True))
    shown = {step: path[step].text for step in ("expert", "token", "slot", "column")}
    assert shown == {
        "expert": "1 and 2 more",
        "token": "5",
        "slot": "-",
        "column": "7",
    }
    (group,) = found.groups
    assert group.level == "layer 2"
    assert group.again == "mxmoe locate -c found"
    assert Path(group.bundle, "tensors.safetensors").exists()
    assert group.pictures
    (statement,) = report.statements
    assert (statement.answer, statement.reason) == ("No", "Found.")


def test_what_was_called_and_what_was_not_observed_is_beside_it(runs: Runs) -> None:
    _, seen = located(build_report([runs["locate"]])).tables
    rows = [tuple(cell.text for cell in row) for row in seen.rows]
    assert rows == [
        (
            "called",
            "4 passes of the model, 1 layer on the reference's inputs, "
            "4 calls with one slot or expert alone",
        ),
        ("not observed", "found"),
    ]


@pytest.mark.parametrize(
    ("code", "mark"), [(0, Mark.GOOD), (3, Mark.IDLE), (4, Mark.IDLE)]
)
def test_a_search_that_found_nothing_says_so_and_what_it_did_not_see(
    code: int, mark: Mark, tmp_path: Path
) -> None:
    verdict = "no divergence: mine is within its bounds"
    kept = {"found": [], "not_observed": ["routing: not observable"]}
    RunWriter(tmp_path).describe(
        command="locate",
        options={"candidate": "mine"},
        exit_code=code,
        verdict=verdict,
        located=kept | {"lines": [verdict], "evaluations": {"strange": []}},
    )
    report = build_report([tmp_path])
    found = located(report)
    assert (found.says, found.mark, found.count) == ((f"mine: {verdict}.",), mark, "")
    (seen,) = found.tables
    assert [row[1].text for row in seen.rows] == ["routing: not observable"]
    (case,) = report.cases
    assert (case.name, case.message) == ("mine", verdict)
    assert case.outcome == ("ok" if code == 0 else "skipped")


def test_a_located_fault_is_a_failed_case_with_all_that_was_said(runs: Runs) -> None:
    (case,) = build_report([runs["locate"]]).cases
    assert (case.suite, case.group, case.outcome) == (
        "locate locate",
        "locate",
        "failed",
    )
    assert case.text.startswith("found\nthe evidence\nagain  mxmoe locate")
