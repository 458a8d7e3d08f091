"""What `mxmoe locate` found: layer → stage → expert → row → column, and why."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from mxmoe.evals.report.document import Cell
from mxmoe.evals.report.document import FailureGroup
from mxmoe.evals.report.document import Mark
from mxmoe.evals.report.document import Section
from mxmoe.evals.report.document import Table
from mxmoe.evals.report.explanation import again
from mxmoe.evals.report.pictures.of_bundle import pictures_of
from mxmoe.evals.report.run_data import RunData
from mxmoe.evals.report.subjects import gate_name

# In data-flow order, as `located` of run.json names them.
_PATH = ("layer", "stage", "expert", "prompt", "token", "slot", "column")


def located(runs: Sequence[RunData]) -> Section:
    """A failure for each run that found something, and the path to each place."""
    mine = [run for run in runs if run.command == "locate"]
    wrong = [run for run in mine if run.facts.get("exit_code") == 1]
    tables = [_paths(run) for run in wrong]
    return Section(
        key="located",
        title="Located",
        count=f"{len(wrong)} found" if wrong else "",
        mark=Mark.BAD if wrong else Mark.GOOD if mine else Mark.PLAIN,
        says=tuple(f"{_name(run)}: {run.verdict}." for run in mine if run not in wrong),
        tables=tuple(table for table in tables if table.rows),
        groups=tuple(map(_group, wrong)),
        fill="mxmoe locate -c CANDIDATE",
    )


def _name(run: RunData) -> str:
    dumps = run.facts.get("dumps")
    if isinstance(dumps, list) and dumps:
        return f"the dump {dumps[-1]}"
    return gate_name(run)


def _facts(run: RunData) -> Mapping[str, Any]:
    kept = run.facts.get("located")
    return kept if isinstance(kept, dict) else {}


def _found(run: RunData) -> list[Mapping[str, Any]]:
    found = _facts(run).get("found")
    return [one for one in found if "layer" in one] if isinstance(found, list) else []


def _group(run: RunData) -> FailureGroup:
    lines = _facts(run).get("lines")
    text = "\n".join(map(str, lines)) if isinstance(lines, list) else run.verdict
    bundle = _facts(run).get("bundle")
    folder = run.bundle_folder(bundle)
    layers = [f"layer {one['layer']}" for one in _found(run)]
    return FailureGroup(
        candidate=_name(run),
        level=", ".join(layers) or "the first call",
        why=run.verdict,
        text=text,
        again=again(text),
        bundle=run.bundle_word(bundle),
        checks=(),
        pictures=() if folder is None else pictures_of(folder),
    )


def _paths(run: RunData) -> Table:
    rows = tuple(
        (*(_cell(one.get(step)) for step in _PATH), Cell(text=_why(one)))
        for one in _found(run)
    )
    caption = f"{_name(run)}: where the first wrong value of each wrong layer stands"
    return Table(caption=caption, columns=(*_PATH, "why"), rows=rows)


def _cell(value: object) -> Cell:
    number = float(value) if isinstance(value, int) else None
    return Cell(text="-" if value is None else str(value), number=number)


def _why(one: Mapping[str, Any]) -> str:
    why = one.get("why")
    return "; ".join(map(str, why)) if isinstance(why, list) and why else "not known"
