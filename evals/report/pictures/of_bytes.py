"""What wrong bytes look like: which entries differ, and which rows stand elsewhere."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from mxmoe.evals.report.document import Picture
from mxmoe.evals.report.pictures import svg
from mxmoe.evals.report.pictures.grid import MASK
from mxmoe.evals.report.pictures.grid import MASK_LEGEND
from mxmoe.evals.report.pictures.grid import draw_grid
from mxmoe.evals.report.pictures.grid import shrink

Bytes = NDArray[np.uint8]
# A plot of fewer known rows would show chance.
_LEAST_KNOWN = 0.5
_MOST_DOTS = 1500
_LEFT, _TOP, _SIZE = 52.0, 10.0, 290.0


def byte_pictures(tensors: Mapping[str, torch.Tensor]) -> tuple[Picture, ...]:
    """Pictures of ``found`` against ``expected``, [e, rows] or [e, rows, columns].

    Empty where one of them is missing or they are not of one kind.
    """
    if not {"found", "expected"} <= tensors.keys():
        return ()
    found, expected = tensors["found"], tensors["expected"]
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return ()
    if expected.ndim not in (2, 3) or not expected.numel():
        return ()
    mine, wanted = _as_bytes(found), _as_bytes(expected)
    wrong = (mine != wanted).any(axis=-1)
    if not wrong.any():
        return ()
    expert = int(np.argmax(wrong.reshape(len(wrong), -1).any(axis=1)))
    moved = _moved(mine[expert], wanted[expert], expert)
    return (*([] if moved is None else [moved]), _mask(wrong, expert))


def _as_bytes(tensor: torch.Tensor) -> Bytes:
    """[e, rows(, columns), bytes of an entry]."""
    plain = tensor.contiguous()
    found: Bytes = plain.unsqueeze(-1).view(torch.uint8).numpy()
    return found


def _mask(wrong: NDArray[np.bool_], expert: int) -> Picture:
    total = f"{int(wrong.sum())} of {wrong.size} entries differ"
    if wrong.ndim == 2:
        grid, down, across = wrong, "expert", "row"
        title = "Which entries differ, by expert and row"
    else:
        grid, down, across = wrong[expert], "row", "column"
        title = f"Which entries of expert {expert} differ"
    experts = int(wrong.reshape(len(wrong), -1).any(axis=1).sum())
    says = f"{total}, in {experts} of {len(wrong)} experts."
    shown = shrink(grid.astype(np.float64))
    count = len(grid)
    return Picture(
        title=title,
        says=says,
        svg=draw_grid(
            [[MASK[int(value)] for value in row] for row in shown],
            says=says,
            rows=[str(n * count // len(shown)) for n in range(len(shown))],
            columns=("0", str(grid.shape[1] - 1)),
            across=across,
            down=down,
            legend=MASK_LEGEND,
        ),
        data={"differ": int(wrong.sum()), "of": int(wrong.size)},
    )


def row_order(mine: Bytes, wanted: Bytes) -> list[tuple[int, int]]:
    """(where a row stands, where the layout has it) of rows that are known by content.

    mine, wanted : the rows of one expert, first axis. A content that occurs twice says
    nothing about order and is left out.
    """
    places: dict[bytes, int] = {}
    twice: set[bytes] = set()
    for place, row in enumerate(wanted):
        key = row.tobytes()
        if key in places:
            twice.add(key)
        places[key] = place
    keys = [row.tobytes() for row in mine]
    return [
        (place, places[key])
        for place, key in enumerate(keys)
        if key in places and key not in twice
    ]


def _moved(mine: Bytes, wanted: Bytes, expert: int) -> Picture | None:
    order = row_order(mine, wanted)
    count = len(wanted)
    elsewhere = sum(here != there for here, there in order)
    if len(order) < _LEAST_KNOWN * count or not elsewhere:
        return None
    says = (
        f"Expert {expert}: {elsewhere} of {len(order)} rows that are known by their "
        "content stand where the layout has another row. On the diagonal a row is "
        "in its place."
    )
    step = -(-len(order) // _MOST_DOTS)
    data = {"found_at": [a for a, _ in order], "belongs_at": [b for _, b in order]}
    return Picture(
        title="Row order: where rows stand, where they belong",
        says=says,
        svg=_scatter(order[::step], max(map(max, order)) + 1, says),
        data=data,
    )


def _scatter(order: list[tuple[int, int]], count: int, says: str) -> str:
    scale = _SIZE / max(count, 1)
    side = max(2.4, min(8.0, scale))

    def box(here: int, there: int) -> str:
        x, y = _LEFT + here * scale, _TOP + there * scale
        return f"M{x:.1f} {y:.1f}h{side:.1f}v{side:.1f}h{-side:.1f}z"

    right = "".join(box(a, b) for a, b in order if a == b)
    wrong = "".join(box(a, b) for a, b in order if a != b)
    bottom = _TOP + _SIZE
    body = [
        svg.rect(_LEFT, _TOP, _SIZE, _SIZE, "empty"),
        svg.line(_LEFT, _TOP, _LEFT + _SIZE, bottom, "limit"),
        svg.path(right or "M0 0", "h5"),
        svg.path(wrong or "M0 0", "b1"),
        svg.text(_LEFT, bottom + 14, "0"),
        svg.text(_LEFT + _SIZE, bottom + 14, str(count - 1), anchor="end"),
        svg.text(_LEFT + _SIZE / 2, bottom + 14, "found at row", anchor="middle"),
        svg.text(_LEFT - 4, _TOP + 10, "0", anchor="end"),
        svg.text(_LEFT - 4, bottom, str(count - 1), anchor="end"),
        svg.turned(12, _TOP + _SIZE / 2, "belongs at row"),
        svg.text(_LEFT, bottom + 32, "dashed: the diagonal, where all should be"),
    ]
    return svg.svg(bottom + 40, says, body)
