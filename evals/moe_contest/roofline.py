"""The picture: each contestant under the measured roof, and its time over tokens."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mxmoe.evals.moe_contest.ceilings import Ceilings
from mxmoe.evals.moe_contest.result import Result

Row = Mapping[str, Any]


def draw_roofline(path: Path, result: Result, title: str) -> None:
    """Write a PNG; refused cells have no point."""
    rows, names = result.rows(), result.names
    figure = Figure(figsize=(12, 5.5), layout="constrained")
    figure.suptitle(_plain(title))
    roof, times = figure.subplots(1, 2)
    _draw_roof(roof, rows, names, result.ceilings)
    _draw_times(times, rows, names)
    figure.savefig(path, format="png", dpi=150)


def _draw_roof(
    axes: Axes, rows: Sequence[Row], names: Sequence[str], ceilings: Ceilings
) -> None:
    intensity = [row["flops"] / row["weight_bytes"] for row in rows]
    copy_rate = ceilings.copy_bytes_per_second
    matmul_rate = ceilings.matmul_flops_per_second
    ridge = matmul_rate / copy_rate
    ends = sorted({*intensity, ridge})
    roof = [min(matmul_rate, copy_rate * x) / 1e12 for x in ends]
    axes.loglog(ends, roof, color="black", label="measured roof")
    _draw_points(axes, intensity, rows, names, "tflops")
    axes.set_xlabel("FLOP for each byte of the touched experts' MXFP4 weights")
    axes.set_ylabel("TFLOP/s")
    axes.legend()


def _draw_times(axes: Axes, rows: Sequence[Row], names: Sequence[str]) -> None:
    tokens = [float(row["tokens"]) for row in rows]
    floor = [row["floor_us"] for row in rows]
    axes.loglog(tokens, floor, color="black", label="floor")
    _draw_points(axes, tokens, rows, names, "median_us")
    axes.set_xlabel("tokens")
    axes.set_ylabel("median us")
    axes.legend()


def _draw_points(
    axes: Axes,
    places: Sequence[float],
    rows: Sequence[Row],
    names: Sequence[str],
    figure: str,
) -> None:
    for name in names:
        points = [
            (x, row["contestants"][name][figure])
            for x, row in zip(places, rows, strict=True)
            if figure in row["contestants"][name]
        ]
        if points:
            axes.loglog(*zip(*points, strict=True), "o-", label=_plain(name))
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(visible=True, which="both", alpha=0.3)


def _plain(text: str) -> str:
    # Between two dollars matplotlib reads formulas.
    return text.replace("$", r"\$")
