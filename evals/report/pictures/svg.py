"""The few elements of SVG that the pictures need. Only text comes from outside."""

from __future__ import annotations

from collections.abc import Iterable

from mxmoe.conformance.escape import for_html

# User units; on a phone one unit is about one pixel, so that text stays readable.
WIDTH = 360
# Longer names would leave the picture.
_LONGEST_LABEL = 44


def svg(height: float, says: str, body: Iterable[str]) -> str:
    """A whole picture; `says` is what is read to those who do not see it."""
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" '
        f'aria-label="{for_html(says)}">{"".join(body)}</svg>'
    )


def text(
    x: float, y: float, words: str, *, anchor: str = "start", kind: str = "label"
) -> str:
    """One line of text."""
    if len(words) > _LONGEST_LABEL:
        words = f"{words[:_LONGEST_LABEL]}…"
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" '
        f'text-anchor="{anchor}">{for_html(words)}</text>'
    )


def turned(x: float, y: float, words: str) -> str:
    """One line of text that is read from below: the name of a vertical axis."""
    return (
        f'<text class="label" text-anchor="middle" '
        f'transform="translate({x:.1f} {y:.1f}) rotate(-90)">{for_html(words)}</text>'
    )


def rect(x: float, y: float, width: float, height: float, kind: str) -> str:
    """A box."""
    return (
        f'<rect class="{kind}" x="{x:.2f}" y="{y:.2f}" '
        f'width="{max(width, 0):.2f}" height="{max(height, 0):.2f}"/>'
    )


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight line."""
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line class="{kind}" {ends}/>'


def path(steps: str, kind: str) -> str:
    """A path of numbers and letters that we wrote."""
    return f'<path class="{kind}" d="{steps}"/>'


def polyline(points: Iterable[tuple[float, float]], kind: str) -> str:
    """A line through points."""
    return path("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points), kind)
