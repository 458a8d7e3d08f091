"""Draws the pictures of docs/layouts.md: ``python docs/pictures/draw.py`` writes them.

Every place in them comes from the steps of `mxmoe.reference.layouts`, run on row
numbers; nothing is placed by hand. `tests/test_docs_pictures.py` compares the files
with what this script gives.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from pathlib import Path

import torch

from mxmoe.reference.layouts import TRTLLM_GEN
from mxmoe.reference.layouts.chain import Chain
from mxmoe.reference.layouts.index_map import PADDING
from mxmoe.reference.layouts.steps import SWIZZLE_COLUMNS
from mxmoe.reference.layouts.steps import SWIZZLE_ROWS
from mxmoe.reference.layouts.steps import deinterleave
from mxmoe.reference.layouts.steps import gated_interleave
from mxmoe.reference.layouts.steps import pad
from mxmoe.reference.layouts.steps import row_shuffle
from mxmoe.reference.layouts.steps import scale_swizzle
from mxmoe.reference.layouts.steps import stack_up_gate
from mxmoe.reference.types import GPT_OSS_120B
from mxmoe.reference.types import Shard

# Okabe and Ito's colours can be told apart by the colour-blind; letters say it too.
_STYLE = """
text { font: 11px ui-monospace, monospace; fill: #1b1f24; }
.title { font: 600 13px system-ui, sans-serif; }
.note { font: 12px system-ui, sans-serif; fill: #57606a; }
.middle { text-anchor: middle; }
.paper { fill: #ffffff; }
.cell { stroke: #ffffff; }
.k0 { fill: #9ad1f5; } .k1 { fill: #f7c66b; } .k2 { fill: #8fd9bd; }
.k3 { fill: #e6b3d3; } .none { fill: #d8dee4; }
.line { stroke: #8c959f; fill: none; }
.dots { fill: none; stroke-width: 1.5; }
.l0 { stroke: #0072b2; } .l1 { stroke: #b86e00; }
.wrong { fill: none; stroke: #c4262e; stroke-width: 2; }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3; } .cell text, text.in { fill: #1b1f24; }
.note { fill: #9da7b3; } .paper { fill: #0d1117; } .cell { stroke: #0d1117; }
.l0 { stroke: #56b4e9; } .l1 { stroke: #e69f00; } .wrong { stroke: #ff7b72; }
}
"""


def svg(title: str, width: int, height: int, parts: Sequence[str]) -> str:
    """One file: `title` is what a screen reader says."""
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" role="img">',
            f"<title>{title}</title>",
            f"<style>{_STYLE}</style>",
            f'<rect class="paper" width="{width}" height="{height}"/>',
            *parts,
            "</svg>\n",
        )
    )


def text(x: float, y: float, words: str, kind: str = "") -> str:
    """Words whose base line begins at (x, y)."""
    named = f' class="{kind}"' if kind else ""
    return f'<text x="{x:g}" y="{y:g}"{named}>{words}</text>'


def cell(x: float, y: float, wide: float, high: float, kind: str) -> str:
    """One box."""
    return (
        f'<rect class="cell {kind}" x="{x:g}" y="{y:g}" width="{wide:g}" '
        f'height="{high:g}"/>'
    )


def row_of_cells(
    x: float, y: float, wide: float, cells: Sequence[tuple[str, str]]
) -> list[str]:
    """(words, kind) of boxes side by side, 22 high."""
    parts = []
    for n, (words, kind) in enumerate(cells):
        left = x + n * wide
        parts.append(cell(left, y, wide, 22, kind))
        parts.append(text(left + wide / 2, y + 15, words, "in middle"))
    return parts


def gate_or_up(row: int) -> tuple[str, str]:
    """A row of the checkpoint as it is called: gate and up alternate there."""
    if row == PADDING:
        return "0", "none"
    return f"{'gu'[row % 2]}{row // 2}", f"k{row % 2}"


def gate_up_interleave() -> str:
    """Three lanes, padded to four, from the checkpoint to the kernel's order."""
    lanes, padded = 3, 4
    rows = torch.arange(2 * lanes)
    steps = (
        ("checkpoint", None),
        ("de-interleave", deinterleave()),
        ("pad each half", pad("each half", 1, lanes, padded)),
        ("stack up, gate", stack_up_gate()),
        ("gated interleave", gated_interleave()),
    )
    parts = [text(10, 22, "Rows of gate_up: g gate, u up, 0 padding", "title")]
    for n, (name, step) in enumerate(steps):
        rows = rows if step is None else step.apply(rows)
        y = 40 + 38 * n
        parts.append(text(10, y + 15, name))
        # Halves that are still apart have a gap between them.
        halves = [rows] if rows.ndim == 1 else list(rows)
        x = 150.0
        for half in halves:
            shown = [gate_or_up(int(row)) for row in half]
            parts += row_of_cells(x, y, 36, shown)
            x += 36 * len(shown) + 12
    return svg("The order of gate and up rows after each step", 470, 240, parts)


def epilogue_tile_rows() -> str:
    """The 32 rows of one shuffle, before and after, with lines from row to row."""
    block, wide, left = 32, 24, 90
    order = row_shuffle(block).apply(torch.arange(block)).tolist()
    lanes = block // 8
    title = "Row shuffle 32: out[8q + s] = in[4s + q]; one colour for each q"
    parts = [
        text(10, 22, title, "title"),
        text(10, 55, "rows in"),
        text(10, 175, "out"),
    ]
    for place, row in enumerate(order):
        a, b = (left + wide * (n + 0.5) for n in (row, place))
        parts.append(f'<path class="line" d="M{a:g} 62V68L{b:g} 154V160"/>')
    for y, rows in ((40, range(block)), (160, order)):
        cells = [(str(row), f"k{row % lanes}") for row in rows]
        parts += row_of_cells(left, y, wide, cells)
    return svg(title, left + wide * block + 10, 195, parts)


def block_scale_swizzle() -> str:
    """One tile of 128 rows x 4 columns of scales, and its 512 bytes in lines of 16."""
    rows, columns, lanes = SWIZZLE_ROWS, SWIZZLE_COLUMNS, 32
    entries = torch.arange(rows * columns).reshape(rows, columns)
    stored = scale_swizzle().apply(entries).reshape(lanes, 16)
    marked, top, left, right = 5, 60, 60, 330
    parts = [
        text(10, 22, "Scale swizzle: 128 rows x 4 columns are 512 bytes", "title"),
        text(left, 48, "scales, row by row", "note"),
        text(right, 48, "memory, 16 bytes a line", "note"),
    ]
    high, wide = 3, 14
    for band in range(rows // lanes):
        y = top + band * lanes * high
        parts.append(cell(left, y, wide * columns, lanes * high, f"k{band}"))
        parts.append(text(10, y + 12, f"row {band * lanes}"))
    for column in range(16):
        # One run of bytes below each other: they come from one band of rows.
        (band,) = (stored[:, column] // columns // lanes).unique().tolist()
        x = right + wide * column
        parts.append(cell(x, top, wide, lanes * 12, f"k{band}"))
    line = top + 12 * marked
    for start in range(0, 16, columns):
        row = int(stored[marked, start]) // columns
        y, x = top + high * row, right + wide * start
        parts += [
            f'<rect class="wrong" x="{left}" y="{y}" width="{wide * columns}" '
            f'height="{high}"/>',
            f'<path class="line" d="M{left + wide * columns} {y + 1.5:g}'
            f'H{left + 90}L{right - 40} {line + 6}H{right}"/>',
            text(left + wide * columns + 6, y - 3, str(row)),
            text(x + 2, top + lanes * 12 + 15, f"+{start}"),
        ]
    parts.append(
        f'<rect class="wrong" x="{right}" y="{line}" width="{wide * 16}" height="12"/>'
    )
    parts.append(text(right + wide * 16 + 6, line + 10, f"offset {16 * marked}"))
    words = "Where the scales of rows r, r+32, r+64 and r+96 stand in memory"
    return svg(words, 660, 475, parts)


def orders_of_the_fault() -> tuple[list[int], list[int]]:
    """Rows of one rank's fc1: as they belong, and as the faulty loader had its bias."""
    chain = TRTLLM_GEN.chains(GPT_OSS_120B, Shard(tp_size=8, tp_rank=0))["fc1_bias"]
    assert isinstance(chain, Chain)
    names = [step.name for step in chain.steps]
    assert names[-2:] == ["gated interleave", "row shuffle 32"]
    last = len(chain.steps) - 1
    faulty = chain.without(last).without(last - 1)
    rows = [c.index_map(GPT_OSS_120B).index.tolist() for c in (chain, faulty)]
    return rows[0], rows[1]


def order_of_the_fault() -> str:
    """The bias of the pull request: expected and found, as strips and as a plot."""
    expected, found = orders_of_the_fault()
    size, shown, wide, left = len(expected), 32, 24, 90
    right_places = sum(a == b for a, b in zip(expected[:shown], found, strict=False))
    title = f"fc1_bias, its first {shown} of {size} rows (gpt-oss-120b, tp 8, rank 0)"
    parts = [text(10, 22, title, "title")]
    for y, name, rows in ((36, "expected", expected), (66, "found", found)):
        parts.append(text(10, y + 15, name))
        parts += row_of_cells(left, y, wide, [gate_or_up(row) for row in rows[:shown]])
    for n, (a, b) in enumerate(zip(expected[:shown], found, strict=False)):
        if a != b:
            parts.append(
                f'<path class="wrong" d="M{left + wide * n + 4} 92h{wide - 8}"/>'
            )
    note = f"u up, g gate, with its lane; red: wrong; {right_places} of {shown} right"
    parts.append(text(left, 112, note, "note"))
    parts += _plot(expected, found, left, 140)
    return svg("The order of the bias rows, expected and found", 870, 460, parts)


def _plot(expected: list[int], found: list[int], left: int, top: int) -> list[str]:
    """Each row: the place where it belongs (up) against the place where it is."""
    size, side = len(expected), 288
    scale = side / size
    place = {row: n for n, row in enumerate(expected)}
    parts = [
        f'<rect class="line" x="{left}" y="{top}" width="{side}" height="{side}"/>',
        f'<path class="line" stroke-dasharray="4 4" '
        f'd="M{left} {top + side}L{left + side} {top}"/>',
        text(
            left, top + side + 18, f"place where it is found: 0 to {size - 1}", "note"
        ),
        text(left + side + 20, top + 20, "up: place where it belongs", "note"),
        text(left + side + 20, top + 40, "dashed: every row in its place", "note"),
        text(left + side + 20, top + 60, "yellow: ups, blue: gates, as found", "note"),
    ]
    for half in (0, 1):
        dots = [
            f"M{left + n * scale:g} {top + side - place[row] * scale:g}h1.5"
            for n, row in enumerate(found)
            if row % 2 == half
        ]
        parts.append(f'<path class="dots l{half}" d="{"".join(dots)}"/>')
    return parts


PICTURES: dict[str, Callable[[], str]] = {
    "gate-up-interleave.svg": gate_up_interleave,
    "epilogue-tile-rows.svg": epilogue_tile_rows,
    "block-scale-swizzle.svg": block_scale_swizzle,
    "order-of-the-fault.svg": order_of_the_fault,
}


def main() -> None:
    """Write every picture beside this file."""
    for name, draw in PICTURES.items():
        Path(__file__).with_name(name).write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()
