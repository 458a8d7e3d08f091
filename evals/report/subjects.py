"""Who was judged: the candidates of all runs, each with everything about it."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path
from typing import Any

from mxmoe.conformance.rundir import VerdictLine
from mxmoe.conformance.verify.layer_lines import RankLine
from mxmoe.evals.report.run_data import CHECKING
from mxmoe.evals.report.run_data import RunData


@dataclass(kw_only=True, eq=False)
class Judged:
    """A candidate over all runs.

    spec : how it was named on the command line, None with a planted fault. lines :
    verdict lines with the run that they stand in. ranks : what `mxmoe verify` found,
    (layer, rank). gates : task scores with this candidate inside. located : searches
    for its first divergence.
    """

    name: str
    spec: str | None
    run: RunData
    facts: Mapping[str, Any] = field(default_factory=dict)
    lines: list[tuple[RunData, VerdictLine]] = field(default_factory=list)
    ranks: list[tuple[RunData, int, RankLine]] = field(default_factory=list)
    gates: list[RunData] = field(default_factory=list)
    located: list[RunData] = field(default_factory=list)


def subjects(runs: Sequence[RunData]) -> list[Judged]:
    """Every candidate that some run is about, in the order in which they come.

    One candidate: the same name from the same place. Where two have one name, the
    later one is told apart by its place.
    """
    found: dict[tuple[str, str | None], Judged] = {}
    for run in runs:
        if run.command in (*CHECKING, "verify"):
            _add(run, found)
    named = {one.spec: one.name for one in found.values()}
    for run in runs:
        dumps = run.facts.get("dumps")
        if run.command in ("gate", "locate") and not dumps:
            planted = run.options.get("fault") is not None
            spec = None if planted else str(run.options.get("candidate"))
            name = named.get(spec) or gate_name(run)
            one = _known(found, name, spec, run)
            (one.gates if run.command == "gate" else one.located).append(run)
            if run.candidates:
                one.facts = one.facts or run.candidates[0]
    return list(found.values())


def _add(run: RunData, found: dict[tuple[str, str | None], Judged]) -> None:
    here = {}
    for facts in run.candidates:
        name = str(facts["name"])
        here[name] = _known(found, name, str(facts.get("spec")), run)
        here[name].facts = here[name].facts or facts
    for line in run.verdicts:
        name = line.candidate
        one = here.get(name) or _known(found, name, None, run)
        one.lines.append((run, line))
    if run.command == "verify" and run.candidates:
        one = here[str(run.candidates[0]["name"])]
        for number, layer in run.layers.items():
            one.ranks += [(run, number, rank) for rank in layer.ranks]


def _known(
    found: dict[tuple[str, str | None], Judged],
    name: str,
    spec: str | None,
    run: RunData,
) -> Judged:
    shown = name
    if any(known == name and other != spec for known, other in found):
        shown = f"{name} ({spec})"
    one = Judged(name=shown, spec=spec, run=run)
    return found.setdefault((name, spec), one)


def gate_name(run: RunData) -> str:
    """The candidate inside a model; a planted fault makes it another one."""
    name = _short(str(run.options.get("candidate")))
    fault = run.options.get("fault")
    return name if fault is None else f"{name} with fault {fault}"


def _short(spec: str) -> str:
    location, _, attribute = spec.partition(":")
    if "/" not in location and not location.endswith(".py"):
        return spec
    return f"{Path(location).name}:{attribute}" if attribute else Path(location).name
