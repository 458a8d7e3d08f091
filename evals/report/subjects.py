"""Who was judged: the candidates of all runs, each with everything about it."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path
from typing import Any

from mxmoe.conformance.layer_lines import RankLine
from mxmoe.conformance.rundir import VerdictLine
from mxmoe.evals.report.run_data import CHECKING
from mxmoe.evals.report.run_data import RunData


@dataclass(kw_only=True, eq=False)
class Judged:
    """A candidate over all runs.

    lines : verdict lines with the run that they stand in. ranks : what `mxmoe verify`
    found, (layer, rank). gates : task scores with this candidate inside.
    """

    name: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    run: RunData | None = None
    lines: list[tuple[RunData, VerdictLine]] = field(default_factory=list)
    ranks: list[tuple[RunData, int, RankLine]] = field(default_factory=list)
    gates: list[RunData] = field(default_factory=list)


def subjects(runs: Sequence[RunData]) -> list[Judged]:
    """Every candidate that some run is about, in the order in which they come."""
    found: dict[str, Judged] = {}
    names: dict[str, str] = {}
    for run in runs:
        if run.command in (*CHECKING, "verify"):
            _add(run, found, names)
    for run in runs:
        if run.command == "gate":
            name = gate_name(run, names)
            one = found.setdefault(name, Judged(name=name))
            one.run = one.run or run
            one.gates.append(run)
    return list(found.values())


def _add(run: RunData, found: dict[str, Judged], names: dict[str, str]) -> None:
    for facts in run.candidates:
        name = str(facts["name"])
        names[str(facts.get("spec"))] = name
        one = found.setdefault(name, Judged(name=name))
        if not one.facts:
            one.facts, one.run = facts, run
    for line in run.verdicts:
        one = found.setdefault(line.candidate, Judged(name=line.candidate))
        one.run = one.run or run
        one.lines.append((run, line))
    if run.command == "verify" and run.candidates:
        one = found[str(run.candidates[0]["name"])]
        for number, layer in run.layers.items():
            one.ranks += [(run, number, rank) for rank in layer.ranks]


def gate_name(run: RunData, names: Mapping[str, str] | None = None) -> str:
    """The candidate of a gate; a planted fault makes it another one."""
    spec = str(run.options.get("candidate"))
    name = (names or {}).get(spec, _short(spec))
    fault = run.options.get("fault")
    return name if fault is None else f"{name} with fault {fault}"


def _short(spec: str) -> str:
    location, _, attribute = spec.partition(":")
    if "/" not in location and not location.endswith(".py"):
        return spec
    return f"{Path(location).name}:{attribute}" if attribute else Path(location).name
