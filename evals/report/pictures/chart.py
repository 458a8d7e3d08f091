"""Lines over two axes, linear or logarithmic, with names at a legend below."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mxmoe.evals.report.pictures import svg

_LEFT, _TOP, _HEIGHT = 52.0, 10.0, 190.0
_WIDTH = svg.WIDTH - _LEFT - 12
# Dots closer than this would be one smear.
_MOST_DOTS = 40
_MARKS = ("dot", "square", "cross", "triangle", "ring", "bar")


@dataclass(frozen=True, kw_only=True)
class Axis:
    """From `low` to `high`; `log` to the base of ten."""

    name: str
    low: float
    high: float
    log: bool = False

    def place(self, value: float) -> float:
        """0 .. 1; beyond the ends it stays at them."""
        low, high, value = (self._scaled(v) for v in (self.low, self.high, value))
        return min(1.0, max(0.0, (value - low) / ((high - low) or 1.0)))

    def ticks(self) -> list[float]:
        """Round numbers within the ends."""
        if self.log:
            low = math.ceil(math.log10(self.low))
            high = math.floor(math.log10(self.high))
            return [
                10.0**n for n in range(low, high + 1, max(1, -(-(high - low) // 6)))
            ]
        rough = (self.high - self.low) / 5 or 1.0
        base = 10.0 ** math.floor(math.log10(rough))
        step = next(base * m for m in (1, 2, 5, 10) if base * m >= rough)
        first = math.ceil(self.low / step)
        return [n * step for n in range(first, math.floor(self.high / step) + 1)]

    def _scaled(self, value: float) -> float:
        return math.log10(max(value, 1e-300)) if self.log else value


@dataclass(frozen=True, kw_only=True)
class Series:
    """kind : ``line``, ``dots`` (both), or ``limit``, which is dashed."""

    name: str
    points: Sequence[tuple[float, float]]
    kind: str = "line"


def draw_chart(
    series: Sequence[Series],
    *,
    across: Axis,
    up: Axis,
    says: str,
    notes: Sequence[tuple[float, str]] = (),
) -> str:
    """SVG. notes : (x, words), a vertical line each."""
    body = _frame(across, up)
    colour, names = 0, []
    for one in series:
        kind = "limit"
        if one.kind != "limit":
            kind, colour = f"s{colour % len(_MARKS)}", colour + 1
        body += _drawn(one, kind, across, up)
        names.append((kind, one.name))
    for x, words in notes:
        at = _LEFT + across.place(x) * _WIDTH
        body.append(svg.line(at, _TOP, at, _TOP + _HEIGHT, "note-line"))
        right = at > _LEFT + _WIDTH / 2
        anchor, shift = ("end", -4) if right else ("start", 4)
        body.append(svg.text(at + shift, _TOP + 12, words, anchor=anchor))
    y = _TOP + _HEIGHT + 44
    for kind, name in names:
        body.append(svg.line(_LEFT, y - 4, _LEFT + 20, y - 4, f"curve {kind}"))
        body.append(_marked(_LEFT + 10, y - 4, kind))
        body.append(svg.text(_LEFT + 26, y, name))
        y += 16
    return svg.svg(y - 4, says, body)


def _frame(across: Axis, up: Axis) -> list[str]:
    body = []
    for value in up.ticks():
        y = _TOP + (1 - up.place(value)) * _HEIGHT
        body.append(svg.line(_LEFT, y, _LEFT + _WIDTH, y, "grid"))
        body.append(svg.text(_LEFT - 5, y + 4, _short(value), anchor="end"))
    for value in across.ticks():
        x = _LEFT + across.place(value) * _WIDTH
        y = _TOP + _HEIGHT
        body.append(svg.line(x, y, x, y + 4, "axis"))
        body.append(svg.text(x, y + 15, _short(value), anchor="middle"))
    corner = _TOP + _HEIGHT
    body.append(svg.line(_LEFT, corner, _LEFT + _WIDTH, corner, "axis"))
    body.append(svg.line(_LEFT, _TOP, _LEFT, corner, "axis"))
    body.append(svg.text(_LEFT + _WIDTH / 2, corner + 29, across.name, anchor="middle"))
    body.append(svg.turned(11, _TOP + _HEIGHT / 2, up.name))
    return body


def _drawn(one: Series, kind: str, across: Axis, up: Axis) -> list[str]:
    points = [
        (_LEFT + across.place(x) * _WIDTH, _TOP + (1 - up.place(y)) * _HEIGHT)
        for x, y in one.points
    ]
    body = [svg.polyline(points, f"curve {kind}")] if len(points) > 1 else []
    if one.kind == "dots" or len(points) == 1:
        step = max(1, len(points) // _MOST_DOTS)
        body += [_marked(x, y, kind) for x, y in points[::step]]
    return body


def _marked(x: float, y: float, kind: str) -> str:
    """A mark of a shape of its own for each series."""
    if kind == "limit":
        return ""
    shape = _MARKS[int(kind[1:])]
    box = f"M{x - 3:.1f} {y - 3:.1f}"
    steps = {
        "dot": f"M{x - 3:.1f} {y:.1f}a3 3 0 1 0 6 0a3 3 0 1 0 -6 0z",
        "ring": f"M{x - 3:.1f} {y:.1f}a3 3 0 1 0 6 0a3 3 0 1 0 -6 0z",
        "square": f"{box}h6v6h-6z",
        "cross": f"{box}l6 6m0 -6l-6 6",
        "triangle": f"M{x:.1f} {y - 4:.1f}l4 7h-8z",
        "bar": f"M{x:.1f} {y - 4:.1f}v8",
    }[shape]
    return svg.path(steps, f"mark {kind} {shape}")


def _short(value: float) -> str:
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.0e}".replace("e+0", "e").replace("e-0", "e-")
    return f"{value:g}"
