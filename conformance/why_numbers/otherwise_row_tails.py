"""The last rows of the first GEMM made otherwise: those that do not fill a tile.

The last rows of the second one are columns of the output, a place of every hypothesis.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch

from mxmoe.conformance.why_numbers.expert_content import Matrix
from mxmoe.conformance.why_numbers.expert_content import Otherwise
from mxmoe.conformance.why_numbers.otherwise_contents import DECODED
from mxmoe.conformance.why_numbers.otherwise_contents import edited

_TILES = (32, 64, 128, 256)
# What a tail with code of its own may do, of all that a matrix may have otherwise.
_EDITS = (
    "nibbles of {} swapped",
    "low nibbles of each block of {} first",
    "signs of {} ignored",
    "{} scales ignored (1 each)",
    "{} scales of the row before",
    "{} scales of the next row",
    "{} scales of row 0 used for every row",
    "weight rows of {} shifted by one",
    "weight rows of {} shifted back by one",
    "{} bias ignored",
    "{} bias added twice",
    "{} nothing but its bias",
)


def row_tails_otherwise(rows: int) -> Iterator[Otherwise]:
    """Each edit in the rows behind the last whole tile. rows : of gate_up."""
    starts = dict.fromkeys(rows // tile * tile for tile in _TILES)
    for start in starts:
        if not 0 < start < rows:
            continue
        for name in _EDITS:
            words = f"{name.format('gate_up')}, in its rows from {start} on"
            change = partial(_in_tail, start, DECODED[name])
            yield Otherwise(name=words, edit=edited(change, ("gate_up",)))


def _in_tail(start: int, change: Callable[[Matrix], Matrix], m: Matrix) -> Matrix:
    other = change(m)
    return replace(
        m,
        elements=torch.cat((m.elements[:start], other.elements[start:])),
        scales=torch.cat((m.scales[:start], other.scales[start:])),
        bias=torch.cat((m.bias[:start], other.bias[start:])),
    )
