"""What `mxmoe locate` found, and why: layer → stage → expert → row → column."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from mxmoe.evals.locate.evaluations import Evaluations
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
    """A failure for each run that found something, and the path to each place.

    Of every run, also one that found nothing: what was called, and what was not seen.
    """
    mine = [run for run in runs if run.command == "locate"]
    wrong = [run for run in mine if run.facts.get("exit_code") == 1]
    tables = [*map(_paths, wrong), *map(_seen, mine)]
    return Section(
        key="located",
        title="Located",
        count=f"{len(wrong)} found" if wrong else "",
        mark=Mark.BAD if wrong else _mark(mine),
        says=tuple(
            f"{located_name(run)}: {run.verdict}." for run in mine if run not in wrong
        ),
        tables=tuple(table for table in tables if table.rows),
        groups=tuple(map(_group, wrong)),
        fill="mxmoe locate -c CANDIDATE",
    )


def _mark(runs: Sequence[RunData]) -> Mark:
    """Of runs that found nothing; some may not have come to an end."""
    if not runs:
        return Mark.PLAIN
    ended = all(run.facts.get("exit_code") == 0 for run in runs)
    return Mark.GOOD if ended else Mark.IDLE


def located_name(run: RunData) -> str:
    """The candidate with its fault, or the dump that was looked into."""
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


def located_text(run: RunData) -> str:
    """All that the run said."""
    lines = _facts(run).get("lines")
    return "\n".join(map(str, lines)) if isinstance(lines, list) else run.verdict


def _group(run: RunData) -> FailureGroup:
    text = located_text(run)
    bundle = _facts(run).get("bundle")
    folder = run.bundle_folder(bundle)
    layers = [f"layer {one['layer']}" for one in _found(run)]
    return FailureGroup(
        candidate=located_name(run),
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
        (*(_cell(_value(one, step)) for step in _PATH), Cell(text=_why(one)))
        for one in _found(run)
    )
    caption = (
        f"{located_name(run)}: where the first wrong value of each wrong layer stands"
    )
    return Table(caption=caption, columns=(*_PATH, "why"), rows=rows)


def _value(one: Mapping[str, Any], step: str) -> object:
    """The step of the path; of several experts the first, and how many more."""
    experts = one.get("experts")
    if step == "expert" and isinstance(experts, list) and len(experts) > 1:
        return f"{one.get(step)} and {len(experts) - 1} more"
    return one.get(step)


def _seen(run: RunData) -> Table:
    unseen = _facts(run).get("not_observed")
    lines = list(map(str, unseen)) if isinstance(unseen, list) else []
    calls = _calls(_facts(run).get("evaluations"))
    rows = [("called", calls)] if calls else []
    rows += [("not observed", line) for line in lines]
    return Table(
        caption=f"{located_name(run)}: what was called, and what was not observed",
        columns=("what", "found"),
        rows=tuple((Cell(text=what), Cell(text=text)) for what, text in rows),
    )


def _calls(kept: object) -> str:
    known = {field.name for field in fields(Evaluations)}
    if not isinstance(kept, dict) or not set(kept) <= known:
        return ""
    whole = all(type(count) is int for count in kept.values())
    return str(Evaluations(**kept)) if whole else ""


def _cell(value: object) -> Cell:
    number = float(value) if isinstance(value, int) else None
    return Cell(text="-" if value is None else str(value), number=number)


def _why(one: Mapping[str, Any]) -> str:
    why = one.get("why")
    return "; ".join(map(str, why)) if isinstance(why, list) and why else "not known"
