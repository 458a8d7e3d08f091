"""How fast, beside what the machine can do: times, and the roofline."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from collections.abc import Sequence
from statistics import median
from typing import Any

from mxmoe.evals.report.document import Cell
from mxmoe.evals.report.document import Mark
from mxmoe.evals.report.document import Picture
from mxmoe.evals.report.document import Section
from mxmoe.evals.report.document import Table
from mxmoe.evals.report.pictures.chart import Axis
from mxmoe.evals.report.pictures.chart import Series
from mxmoe.evals.report.pictures.chart import draw_chart
from mxmoe.evals.report.run_data import RunData
from mxmoe.reference.errors import BadInput

Row = Mapping[str, Any]
# No benchmark of ours has more lines; a page that has would not open.
_MOST_ROWS = 500


def speed(runs: Sequence[RunData]) -> Section:
    """Every benchmark given: `bench moe` with its roofline, others as medians."""
    says: list[str] = []
    tables: list[Table] = []
    pictures: list[Picture] = []
    for run in runs:
        if run.command == "bench moe" and run.facts.get("rows"):
            try:
                found = _contest(run)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise BadInput(
                    f"{run.folder / 'run.json'}: expected the rows of bench moe, "
                    f"found {type(error).__name__} {error}"
                ) from error
            says.append(found[0])
            tables.append(found[1])
            pictures += found[2]
        elif (run.folder / "bench.csv").exists():
            tables.append(_medians(run))
            says.append(f"{run.command} on {run.facts.get('device')}.")
    return Section(
        key="speed",
        title="Speed",
        says=tuple(says),
        tables=tuple(tables),
        pictures=tuple(pictures),
        fill="mxmoe bench moe --candidate CANDIDATE",
    )


def _contest(run: RunData) -> tuple[str, Table, tuple[Picture, ...]]:
    facts = run.facts
    rows, names = facts["rows"], list(facts["contestants"])
    ceilings = facts["ceilings"]
    copy = float(ceilings["copy_bytes_per_second"])
    matmul = float(ceilings["matmul_flops_per_second"])
    says = (
        f"{facts['shape']} on {facts['device']}: copy {copy / 1e12:.3g} TB/s, bf16 "
        f"matmul {matmul / 1e12:.3g} TFLOP/s; {facts.get('timed', '')}. The floor is "
        "what these two allow; a wrong output has no time."
    )
    table = Table(
        caption=f"One MoE layer, {facts['shape']}: median microseconds",
        columns=(
            *("tokens", "experts", *names),
            *("ratio", "floor us", "floor/time", "TFLOP/s"),
        ),
        rows=tuple(_row(row, names, str(facts["candidate"])) for row in rows),
    )
    return says, table, (_roof(rows, names, copy, matmul), _times(rows, names))


def _row(row: Row, names: Sequence[str], candidate: str) -> tuple[Cell, ...]:
    ours = row["contestants"].get(candidate, {})
    return (
        Cell(text=str(row["tokens"]), number=row["tokens"]),
        Cell(text=str(row["experts"]), number=row["experts"]),
        *(_time(row["contestants"].get(name, {})) for name in names),
        _figure(row.get("ratio"), ".2f"),
        _figure(row["floor_us"], ".1f"),
        _figure(ours.get("floor_fraction"), ".2f"),
        _figure(ours.get("tflops"), ".1f"),
    )


def _time(figures: Row) -> Cell:
    if "refused" in figures:
        return Cell(text=f"refused: {figures['refused']}", mark=Mark.BAD)
    if "median_us" not in figures:
        return Cell(text="not run", mark=Mark.IDLE)
    spread = (figures["quartile3_us"] - figures["quartile1_us"]) / 2
    time = float(figures["median_us"])
    return Cell(text=f"{time:.1f} ±{spread:.1f}", number=time)


def _figure(value: float | None, form: str) -> Cell:
    return Cell(text="-" if value is None else format(value, form), number=value)


def _roof(
    rows: Sequence[Row], names: Sequence[str], copy: float, matmul: float
) -> Picture:
    intensity = [row["flops"] / row["weight_bytes"] for row in rows]
    low, high = min(intensity) / 1.5, max(*intensity, matmul / copy) * 1.5
    ends = sorted({low, matmul / copy, high})
    roof = [(x, min(matmul, copy * x) / 1e12) for x in ends]
    series = [Series(name="measured roof", points=roof, kind="limit")]
    series += [
        Series(name=name, points=points, kind="dots")
        for name in names
        if (points := _points(rows, name, "tflops", intensity))
    ]
    lowest = min(y for one in series for _, y in one.points)
    says = (
        f"Roofline: {', '.join(one.name for one in series[1:])} below the measured "
        f"roof, whose ridge is at "
        f"{matmul / copy:.0f} FLOP for each byte of the touched experts' weights."
    )
    return Picture(
        title="Roofline",
        says=says,
        svg=draw_chart(
            series,
            across=Axis(name="FLOP per weight byte", low=low, high=high, log=True),
            up=Axis(name="TFLOP/s", low=lowest / 2, high=matmul / 1e12 * 2, log=True),
            says=says,
        ),
        data={"roof": roof},
    )


def _times(rows: Sequence[Row], names: Sequence[str]) -> Picture:
    tokens = [float(row["tokens"]) for row in rows]
    floor = [(t, row["floor_us"]) for t, row in zip(tokens, rows, strict=True)]
    series = [Series(name="measured floor", points=floor, kind="limit")]
    series += [
        Series(name=name, points=points, kind="dots")
        for name in names
        if (points := _points(rows, name, "median_us", tokens))
    ]
    values = [y for one in series for _, y in one.points]
    timed = ", ".join(one.name for one in series[1:])
    says = f"Median time of {timed} over tokens, above the measured floor."
    return Picture(
        title="Time over tokens",
        says=says,
        svg=draw_chart(
            series,
            across=Axis(
                name="tokens", low=min(tokens), high=max(*tokens, 2.0), log=True
            ),
            up=Axis(
                name="microseconds", low=min(values) / 2, high=max(values) * 2, log=True
            ),
            says=says,
        ),
    )


def _points(
    rows: Sequence[Row], name: str, figure: str, places: Sequence[float]
) -> list[tuple[float, float]]:
    return [
        (x, float(row["contestants"][name][figure]))
        for x, row in zip(places, rows, strict=True)
        if figure in row["contestants"].get(name, {})
    ]


def _medians(run: RunData) -> Table:
    """`bench.csv` of any benchmark: seconds by all columns but the repetition."""
    path = run.folder / "bench.csv"
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file))
        groups: dict[tuple[str, ...], list[float]] = {}
        for line in lines:
            key = tuple(
                f"{value}" for name, value in line.items() if name not in _NOT_A_KEY
            )
            groups.setdefault(key, []).append(float(line["seconds"]))
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise BadInput(f"{path}: expected timed lines, found {error}") from error
    names = [name for name in (lines[0] if lines else {}) if name not in _NOT_A_KEY]
    rows = tuple(
        (
            *(Cell(text=word) for word in key),
            Cell(text=f"{1e3 * median(times):.3f}", number=median(times)),
            Cell(text=str(len(times)), number=len(times)),
        )
        for key, times in list(groups.items())[:_MOST_ROWS]
    )
    return Table(
        caption=f"{run.command}: median milliseconds",
        columns=(*map(str, names), "median ms", "repetitions"),
        rows=rows,
    )


_NOT_A_KEY = frozenset({"seconds", "repetition", "replay", None})
