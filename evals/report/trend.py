"""The score from night to night, and since when it is lower."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence

from mxmoe.evals.gate.cusum import ALARM
from mxmoe.evals.gate.cusum import LEAST_BASELINE
from mxmoe.evals.gate.cusum import Drop
from mxmoe.evals.gate.cusum import cusum
from mxmoe.evals.gate.cusum import find_drop
from mxmoe.evals.report.document import Cell
from mxmoe.evals.report.document import Mark
from mxmoe.evals.report.document import Picture
from mxmoe.evals.report.document import Section
from mxmoe.evals.report.document import Table
from mxmoe.evals.report.gate_section import GateRun
from mxmoe.evals.report.pictures.chart import Axis
from mxmoe.evals.report.pictures.chart import Series
from mxmoe.evals.report.pictures.chart import draw_chart

_FILL = (
    f"mxmoe report NIGHT1 NIGHT2 ...   ({LEAST_BASELINE + 1} or more runs of mxmoe "
    "gate --full with one candidate)"
)


def trend(gates: Sequence[GateRun]) -> Section:
    """The nights of each candidate that has enough of them, in order of time."""
    says, tables, pictures, dropped = [], [], [], False
    for name, nights in _by_candidate(gates).items():
        if len(nights) < 2:
            continue
        counts = [sum(night.right) for night in nights]
        baseline, later = counts[:LEAST_BASELINE], counts[LEAST_BASELINE:]
        sums: list[float] = []
        note: tuple[tuple[float, str], ...] = ()
        if later:
            sums = cusum(later, baseline=baseline)
            drop = find_drop(later, baseline=baseline)
            says.append(_said(name, nights, drop))
            if drop is not None:
                dropped = True
                note = ((LEAST_BASELINE + drop.began + 1, "change begins"),)
        else:
            says.append(
                f"{name}: {len(nights)} whole runs; from {LEAST_BASELINE + 1} on "
                "change points are looked for."
            )
        pictures.append(_scores(name, nights, note))
        if sums:
            pictures.append(_sums(name, sums))
        tables.append(_table(name, nights, sums))
    return Section(
        key="trend",
        title="Trend",
        count="drop" if dropped else "",
        mark=Mark.BAD if dropped else Mark.PLAIN,
        says=tuple(says),
        pictures=tuple(pictures),
        details=tuple(tables),
        fill=_FILL,
    )


def _by_candidate(gates: Sequence[GateRun]) -> Mapping[str, list[GateRun]]:
    """Whole runs of one candidate under one rule, oldest first where times are kept."""
    found: dict[str, list[GateRun]] = {}
    for gate in gates:
        if gate.whole:
            found.setdefault(gate.name, []).append(gate)
    for nights in found.values():
        nights.sort(key=lambda gate: str(gate.run.facts.get("started", "")))
    return found


def _said(name: str, nights: Sequence[GateRun], drop: Drop | None) -> str:
    if drop is None:
        return f"{name}: no drop in {len(nights)} whole runs."
    began, seen = (
        nights[LEAST_BASELINE + night].run.folder.name
        for night in (drop.began, drop.seen)
    )
    return f"{name}: the score fell. Change begins at {began}, seen at {seen}."


def _scores(
    name: str, nights: Sequence[GateRun], note: tuple[tuple[float, str], ...]
) -> Picture:
    counts = [sum(night.right) for night in nights]
    least = nights[-1].rule.least_correct
    says = (
        f"{name}: right answers in {len(counts)} whole runs, lowest {min(counts)}, "
        f"last {counts[-1]}; {least} pass."
    )
    points = [(number, count) for number, count in enumerate(counts, 1)]
    low, high = min(*counts, least), max(*counts, least)
    room = max(1.0, (high - low) * 0.08)
    return Picture(
        title=f"{name}: score of each run",
        says=says,
        svg=draw_chart(
            [
                Series(name="right answers", points=points, kind="dots"),
                Series(
                    name="least that passes",
                    points=[(1, least), (len(counts), least)],
                    kind="limit",
                ),
            ],
            across=Axis(name="run", low=1, high=len(counts)),
            up=Axis(name="right answers", low=low - room, high=high + room),
            says=says,
            notes=note,
        ),
        data={"right": counts},
    )


def _sums(name: str, sums: Sequence[float]) -> Picture:
    says = (
        f"{name}: CUSUM after the {LEAST_BASELINE} runs of the baseline, in deviations "
        f"of one run; highest {max(sums):.1f}, alarm at {ALARM:g}."
    )
    first = LEAST_BASELINE + 1
    points = [(number, total) for number, total in enumerate(sums, first)]
    last = LEAST_BASELINE + len(sums)
    return Picture(
        title=f"{name}: cumulative sum",
        says=says,
        svg=draw_chart(
            [
                Series(name="CUSUM", points=points, kind="dots"),
                Series(
                    name="alarm", points=[(first, ALARM), (last, ALARM)], kind="limit"
                ),
            ],
            across=Axis(name="run", low=first, high=max(last, first + 1)),
            up=Axis(name="deviations", low=0, high=max(*sums, ALARM) * 1.1),
            says=says,
        ),
        data={"cusum": list(sums)},
    )


def _table(name: str, nights: Sequence[GateRun], sums: Sequence[float]) -> Table:
    shown: list[float | None] = [None] * (len(nights) - len(sums))
    shown += sums
    rows = tuple(
        (
            Cell(text=night.run.folder.name, code=True),
            Cell(text=str(night.run.facts.get("started", "not kept"))),
            Cell(text=str(sum(night.right)), number=sum(night.right)),
            Cell(text="baseline" if total is None else f"{total:.2f}", number=total),
        )
        for night, total in zip(nights, shown, strict=True)
    )
    columns = ("run", "started", "right", "CUSUM")
    return Table(caption=f"{name}: whole runs", columns=columns, rows=rows)
