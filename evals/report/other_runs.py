"""Runs that have no section of their own: bisect, peers and others.

Their facts are shown as they stand in ``run.json``: plain values in one table, each
list of records in one of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from mxmoe.evals.report.document import Cell
from mxmoe.evals.report.document import Mark
from mxmoe.evals.report.document import Section
from mxmoe.evals.report.document import Table
from mxmoe.evals.report.run_data import CHECKING
from mxmoe.evals.report.run_data import RunData

_SHOWN_ELSEWHERE = frozenset(
    {*CHECKING, "gate", "faults", "verify", "bench moe", "bench prepare"}
    | {"locate", "compare"}
)
# What every run has; the environment's section shows it.
_COMMON = frozenset(
    {"schema", "id", "command", "versions", "platform", "device", "sm", "driver"}
    | {"environment", "candidates", "started", "finished", "exit_code"}
)
_MOST_ROWS, _LONGEST = 200, 2000


def other_runs(runs: Sequence[RunData]) -> Section:
    """One table of facts for each such run, and its lists of records."""
    mine = [run for run in runs if run.command not in _SHOWN_ELSEWHERE]
    tables: list[Table] = []
    for run in mine:
        facts = {n: v for n, v in run.facts.items() if n not in _COMMON}
        records = {n: v for n, v in facts.items() if _is_records(v)}
        plain = {n: v for n, v in facts.items() if n not in records}
        tables.append(_plain(run, plain))
        tables += [_records(run, name, value) for name, value in records.items()]
    says = tuple(f"{run.command}: {run.verdict}" for run in mine)
    return Section(
        key="other",
        title="Other runs",
        mark=Mark.PLAIN,
        says=says,
        tables=tuple(table for table in tables if table.rows),
        fill="mxmoe bisect --experts -c CANDIDATE",
    )


def _is_records(value: object) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(one, dict) for one in value)
    )


def _plain(run: RunData, facts: Mapping[str, Any]) -> Table:
    rows = tuple(
        (Cell(text=name), Cell(text=_words(value), code=not isinstance(value, str)))
        for name, value in facts.items()
    )
    caption = f"{run.command}: {run.folder}"
    return Table(caption=caption, columns=("fact", "value"), rows=rows)


def _records(run: RunData, name: str, records: Sequence[Mapping[str, Any]]) -> Table:
    columns = tuple(dict.fromkeys(str(key) for one in records for key in one))
    rows = tuple(
        tuple(_cell(one.get(column)) for column in columns)
        for one in records[:_MOST_ROWS]
    )
    return Table(caption=f"{run.command}: {name}", columns=columns, rows=rows)


def _cell(value: object) -> Cell:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Cell(text=f"{value:g}", number=float(value))
    return Cell(text=_words(value))


def _words(value: object) -> str:
    if value is None:
        return "-"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
