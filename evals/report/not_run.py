"""What was not judged, and why: as long as what was, and as easy to find."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from mxmoe.conformance.verdict import Verdict
from mxmoe.evals.report.document import Cell
from mxmoe.evals.report.document import Mark
from mxmoe.evals.report.document import Section
from mxmoe.evals.report.document import Table
from mxmoe.evals.report.subjects import Judged

_KINDS = {
    Verdict.NOT_RUN: Mark.IDLE,
    Verdict.UNSUPPORTED: Mark.IDLE,
    Verdict.EXPECTED_FAILURE: Mark.NOTE,
}
_COLUMNS = ("candidate", "level", "what", "reason", "checks")


def not_run(judged: Sequence[Judged]) -> Section:
    """Every reason, with the number of checks behind it."""
    found: Counter[tuple[str, str, Verdict, str]] = Counter()
    ran = 0
    for one in judged:
        ran += sum(line.verdict.judged for _, line in one.lines)
        for _, line in one.lines:
            if line.verdict in _KINDS:
                for reason in line.notes or (line.reason,):
                    found[one.name, line.level, line.verdict, reason] += 1
        away = one.facts.get("unavailable")
        if away is not None and not one.lines:
            found[one.name, "all", Verdict.NOT_RUN, str(away)] += 1
    rows = tuple(
        (
            Cell(text=name),
            Cell(text=level),
            Cell(text=str(verdict), mark=_KINDS[verdict]),
            Cell(text=reason),
            Cell(text=str(count), number=count),
        )
        for (name, level, verdict, reason), count in found.items()
    )
    total = sum(found.values())
    says: tuple[str, ...] = ()
    if ran or rows:
        says = (
            f"{ran} checks judged something; {total} did not. Nothing here counts as "
            "passed.",
        )
    tables = (Table(caption="Not judged, and why", columns=_COLUMNS, rows=rows),)
    return Section(
        key="not-run",
        title="What was not run",
        count=str(total) if rows else "",
        mark=Mark.IDLE if rows else Mark.PLAIN,
        says=says,
        tables=tables if rows else (),
        fill="mxmoe check -c CANDIDATE",
    )
