"""Rows of an expert that are taken in another order, in all of them or in some tiles.

A gather and its inverse, the un-permute, are made from one sort. Where one of them is
made otherwise, the rows of an expert come back in another order: in a tile, or in the
rows that a tile does not fill.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator

import torch

from mxmoe.conformance.why_numbers.slots.slot_sources import position_and_row

Tensor = torch.Tensor

# Rows of the tiles of a GEMM.
_TILES = (8, 16, 32, 64, 128)


def rows_in_another_order(ids: Tensor) -> Iterator[tuple[str, str, Tensor]]:
    """(what, where alone, the slot n that each slot [t, k] takes the row of).

    ids : [t, k]; slots without an expert are sorted behind all others.
    """
    p, row = (x.flatten() for x in position_and_row(ids))
    order, count = p.argsort(), _counts(ids)
    for where, first, end, inside in _parts(row, count):
        for what, other in _ORDERS.items():
            taken = first + other(row - first, end - first)
            yield what, where, order[p - row + torch.where(inside, taken, row)]


def _counts(ids: Tensor) -> Tensor:
    """How many slots each slot's expert has, [t * k]."""
    flat = ids.flatten().long() + 1
    return torch.bincount(flat)[flat]


def _parts(row: Tensor, count: Tensor) -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:
    """(where, the first row of each slot's part, its end, whether it is in one)."""
    zero, every = torch.zeros_like(row), torch.ones_like(row).bool()
    yield "", zero, count, every
    for tile in _TILES:
        own, last = row // tile * tile, (count - 1) // tile * tile
        rest = count // tile * tile
        end = (own + tile).minimum(count)
        for words, first, behind, inside in (
            (f"rows from {tile} on", zero + tile, count, row >= tile),
            (f"first {tile} rows", zero, count.clamp(max=tile), row < tile),
            (f"rows, each tile of {tile} alone", own, end, every),
            (f"full tiles of {tile} rows, each alone", own, own + tile, row < rest),
            (f"rows behind its full tiles of {tile}", rest, count, row >= rest),
            (f"last tile of {tile} rows", last, count, row >= last),
            (f"tiles of {tile} rows but the first", own, end, row >= tile),
        ):
            yield f", in its {words} only", first, behind.maximum(first + 1), inside


def _evens_first(u: Tensor, m: Tensor) -> Tensor:
    half = (m + 1) // 2
    return torch.where(u < half, 2 * u, 2 * (u - half) + 1)


def _halves_mixed(u: Tensor, m: Tensor) -> Tensor:
    return u // 2 + u % 2 * ((m + 1) // 2)


# Of row u of a part of m rows.
_ORDERS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "the opposite row of its expert": lambda u, m: m - 1 - u,
    "the next row of its expert": lambda u, m: (u + 1) % m,
    "the row before of its expert": lambda u, m: (u - 1) % m,
    "the next row of its expert, the last its own": lambda u, m: (u + 1).minimum(m - 1),
    "the row before of its expert, the first its own": lambda u, m: (u - 1).clamp(
        min=0
    ),
    "row r xor 1 of its expert": lambda u, m: torch.where(u ^ 1 < m, u ^ 1, u),
    "the row half of them further of its expert": lambda u, m: (u + m // 2) % m,
    "the rows of its expert with even ones first": _evens_first,
    "the rows of its expert with both halves in turn": _halves_mixed,
}
