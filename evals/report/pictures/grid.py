"""A table of numbers as coloured cells: heat maps and masks.

A cell's class is one of ``h0`` .. ``h5`` within the bound and ``b0`` .. ``b3`` beyond
it; beyond is hatched as well, because colour alone is no difference for everybody.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mxmoe.evals.report.pictures import svg

# More cells than pixels of a phone show nothing more.
MOST_ROWS, MOST_COLUMNS = 64, 96
# Upper ends of the classes of error / bound; what has no class before is b3.
STEPS = (
    ("h0", 1e-3),
    ("h1", 0.1),
    ("h2", 0.25),
    ("h3", 0.5),
    ("h4", 0.75),
    ("h5", 1.0),
    ("b0", 10.0),
    ("b1", 100.0),
    ("b2", 1e4),
)
WORST = "b3"
MASK = {0: "h0", 1: "b1"}
_LEFT, _TOP, _BOTTOM = 56.0, 8.0, 32.0
# Width of a letter of the axes, at 13 units of height.
_LETTER = 8.0


def shrink(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """At most `MOST_ROWS` x `MOST_COLUMNS`, the largest of each part; NaN is none."""
    for axis, most in ((0, MOST_ROWS), (1, MOST_COLUMNS)):
        count = values.shape[axis]
        if count > most:
            starts = np.unique(np.arange(most) * count // most)
            values = np.fmax.reduceat(values, starts, axis=axis)
    return values


def by_ratio(values: NDArray[np.float64]) -> list[list[str]]:
    """The classes of error / bound; "" for NaN, where nothing was judged."""
    return [[_class_of(value) for value in row] for row in values]


def draw_grid(
    classes: Sequence[Sequence[str]],
    *,
    says: str,
    rows: Sequence[str],
    columns: tuple[str, str],
    across: str,
    down: str,
    legend: Sequence[tuple[str, str]],
) -> str:
    """SVG. rows : the name of each row. columns : of the first and the last."""
    height = _row_height(len(classes)) * len(classes)
    height = max(height, _LETTER * len(down))  # or the axis would be cut
    width = svg.WIDTH - _LEFT - 8
    body = [svg.rect(_LEFT, _TOP, width, height, "empty")]
    for kind, steps in _paths(classes, width, height).items():
        body.append(svg.path(steps, kind))
        if kind.startswith("b"):
            body.append(svg.path(steps, "hatched"))
    body += _row_names(rows, height)
    bottom = _TOP + height + 14
    body.append(svg.text(_LEFT, bottom, columns[0]))
    body.append(svg.text(svg.WIDTH - 8, bottom, columns[1], anchor="end"))
    body.append(svg.text(_LEFT + width / 2, bottom, across, anchor="middle"))
    body.append(svg.turned(12, _TOP + height / 2, down))
    body += _legend(legend, bottom + 12)
    return svg.svg(_TOP + height + _BOTTOM + 16, says, body)


RATIO_LEGEND = (
    ("h0", "0"),
    ("h2", ".25"),
    ("h5", "1"),
    ("b0", "10"),
    ("b1", "100"),
    ("b2", "1e4"),
    ("b3", "more"),
)
MASK_LEGEND = (("h0", "equal"), ("b1", "differs"))


def _class_of(value: float) -> str:
    if np.isnan(value):
        return ""
    return next((name for name, end in STEPS if value <= end), WORST)


def _row_height(count: int) -> float:
    return min(22.0, max(3.0, 200 / max(count, 1)))


def _paths(
    classes: Sequence[Sequence[str]], width: float, height: float
) -> dict[str, str]:
    """One path for each class: runs of equal cells are one box."""
    found: dict[str, list[str]] = {}
    dy = height / max(len(classes), 1)
    for number, row in enumerate(classes):
        dx = width / max(len(row), 1)
        start = 0
        for end in range(1, len(row) + 1):
            if end < len(row) and row[end] == row[start]:
                continue
            if row[start]:
                x, y = _LEFT + start * dx, _TOP + number * dy
                w = (end - start) * dx
                box = f"M{x:.1f} {y:.1f}h{w:.1f}v{dy:.1f}h{-w:.1f}z"
                found.setdefault(row[start], []).append(box)
            start = end
    return {kind: "".join(boxes) for kind, boxes in found.items()}


def _row_names(rows: Sequence[str], height: float) -> list[str]:
    step = max(1, -(-len(rows) * 12 // max(int(height), 1)))
    dy = height / max(len(rows), 1)
    return [
        svg.text(_LEFT - 4, _TOP + (number + 0.5) * dy + 4, name, anchor="end")
        for number, name in enumerate(rows)
        if number % step == 0
    ]


def _legend(legend: Sequence[tuple[str, str]], y: float) -> list[str]:
    body, x = [], _LEFT
    for kind, words in legend:
        body.append(svg.rect(x, y, 12, 10, f"{kind} edged"))
        if kind.startswith("b"):
            body.append(svg.rect(x, y, 12, 10, "hatched"))
        body.append(svg.text(x + 15, y + 9, words))
        x += 22 + 7 * len(words)
    return body
