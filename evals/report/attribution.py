"""Whose side is wrong: {your prepare, ours} x {your forward, our consumer}."""

from __future__ import annotations

from collections.abc import Sequence

from mxmoe.conformance.judging.numbers import ROUTES
from mxmoe.conformance.rundir import VerdictLine
from mxmoe.evals.report.document import Cell
from mxmoe.evals.report.document import Mark
from mxmoe.evals.report.document import Section
from mxmoe.evals.report.document import Table
from mxmoe.evals.report.explanation import attribution
from mxmoe.evals.report.stage_matrix import ratio
from mxmoe.evals.report.subjects import Judged

_CHECK = "test_layer_output_stays_within_the_bound["
_COLUMNS = ("prepared by", "your forward", "our consumer")


def attribution_section(judged: Sequence[Judged]) -> Section:
    """The matrix of each candidate that has both sides, and what it comes to."""
    tables, says = [], []
    for one in judged:
        lines = [line for _, line in one.lines if _CHECK in line.check]
        if any(line.verdict.judged for line in lines):
            tables.append(_table(one.name, lines))
        found = dict.fromkeys(attribution(line.text) for _, line in one.lines)
        says += [f"{one.name}: {sentence}." for sentence in found if sentence]
    return Section(
        key="attribution",
        title="Loader or kernel?",
        says=tuple(says),
        tables=tuple(tables),
        fill="mxmoe check -c CANDIDATE -k test_layer_output",
    )


def _table(name: str, lines: Sequence[VerdictLine]) -> Table:
    ours = Cell(text="the reference itself", mark=Mark.PLAIN, number=0)
    rows = (
        (
            Cell(text="your prepare"),
            _cell(lines, "yours-yours"),
            _cell(lines, "yours-ours"),
        ),
        (Cell(text="our prepare"), _cell(lines, "ours-yours"), ours),
    )
    return Table(
        caption=f"{name}: layers of the checkpoint by each way through",
        columns=_COLUMNS,
        rows=rows,
    )


def _cell(lines: Sequence[VerdictLine], route: str) -> Cell:
    assert route in ROUTES
    mine = [line for line in lines if line.check.endswith(f"-{route}]")]
    judged = [line for line in mine if line.verdict.judged]
    failed = [line for line in judged if line.verdict.failed]
    if not judged:
        reasons = {line.reason for line in mine} - {""}
        reason = ": " + ", ".join(sorted(reasons)) if reasons else ""
        return Cell(text=f"not run{reason}", mark=Mark.IDLE, number=-1)
    worst = max((line.worst for line in judged if line.worst is not None), default=None)
    said = "" if worst is None else f", error/bound {ratio(worst)}"
    if failed:
        text = f"FAIL {len(failed)} of {len(judged)}{said}"
        return Cell(text=text, mark=Mark.BAD, number=worst)
    return Cell(text=f"ok {len(judged)}{said}", mark=Mark.GOOD, number=worst)
