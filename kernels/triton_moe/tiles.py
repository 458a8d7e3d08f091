"""Tiles of 64 rows x 64 elements of K, in the order in which warps read them.

Rows of a tile are 16g + 8l + r. A lane of a warp has rows r and r + 8 (l = 0, 1) and
the elements 2c, 2c + 1 of each 8 (PTX ISA, mma fragments), in two blocks m:

    word   ((8g + r) 4 + c) 4 + 2l + m   codes at elements 16s + 8u + 2c + v of the
                                         block (`spread_codes`; j = 2s + u)
    scale   (8g + r) 4 + 2l + m          of that row and block

The rows of gate_up are interleaved in the checkpoint; of each 16 here the gates come
first (l = 0), then the ups of the same channels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import torch

from mxmoe.kernels.triton_moe.geometry import TILE_BLOCKS
from mxmoe.kernels.triton_moe.geometry import TILE_ROWS
from mxmoe.kernels.triton_moe.spread_codes import spread_codes

_LANE_ROWS = 8
_GROUPS = TILE_ROWS // (2 * _LANE_ROWS)


def place_weights(
    destination: torch.Tensor, source: torch.Tensor, *, gated: bool, piece_bytes: int
) -> None:
    """Write the tiles that `source` reaches; the rest must be zeros already.

    destination : uint8 [e, R/64, C/64, 2048]. source : blocks, uint8 [e, r, g, 16] on
    any device, r a multiple of 32; rows interleaved gate, up if `gated`.
    piece_bytes : of the source taken at a time, at least 64 rows; 3.5 times as much
    is allocated.
    """
    scratch = destination.new_empty(0, dtype=torch.int32)
    for experts, tiles, part in _pieces(source, destination.device, piece_bytes):
        n, pairs = part.numel() // 16, part.shape[2] // TILE_BLOCKS
        if scratch.numel() == 0:  # no piece is larger than the first
            scratch = scratch.new_empty(10 * n)
        words, spread, spare = scratch[: 10 * n].view(10, n).split((4, 4, 2))
        read = in_row_order(part.view(torch.int32), gated=gated)
        read = read.unflatten(4, (pairs, TILE_BLOCKS))  # e a l r q m j
        read = read.permute(6, 2, 5, 0, 1, 3, 4)
        words.view(read.shape).copy_(read)
        spread_codes(words, spread, spare)
        to = destination[experts, tiles, :pairs].view(torch.int32)
        to = to.unflatten(3, (_GROUPS, _LANE_ROWS, 4, 2, TILE_BLOCKS))
        planes = spread.view(4, *read.shape[1:4], -1, _GROUPS, _LANE_ROWS, pairs)
        to.copy_(planes.permute(3, 4, 7, 5, 6, 0, 1, 2))  # e t q g r c l m


def place_scales(
    destination: torch.Tensor, source: torch.Tensor, *, gated: bool, piece_bytes: int
) -> None:
    """As `place_weights`, for uint8 [e, r, g] -> uint8 [e, R/64, C/64, 128]."""
    for experts, tiles, part in _pieces(source, destination.device, piece_bytes):
        # The two blocks of a tile stand together before and after.
        read = in_row_order(part.view(torch.int16), gated=gated)
        read = read.unflatten(1, (-1, _GROUPS)).permute(0, 1, 5, 2, 4, 3)
        to = destination[experts, tiles, : read.shape[2]].view(torch.int16)
        to = to.unflatten(3, (_GROUPS, _LANE_ROWS, 2))  # e t q g r l
        # Both at once would be an innermost loop of two.
        for half in (0, 1):
            to[..., half].copy_(read[..., half])


def row_shares(
    destination: torch.Tensor, source: torch.Tensor, shares: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Both cut along their rows into `shares` parts of whole tiles, some empty."""
    tiles = -(-source.shape[1] // TILE_ROWS)
    borders = [tiles * n // shares for n in range(shares + 1)]
    for start, stop in itertools.pairwise(borders):
        rows = slice(start * TILE_ROWS, stop * TILE_ROWS)
        yield destination[:, start:stop], source[:, rows]


def in_row_order(rows: torch.Tensor, *, gated: bool) -> torch.Tensor:
    """[e, 16a, ...] of the checkpoint -> [e, a, l, r, ...] in the order of tiles."""
    if gated:
        return rows.unflatten(1, (-1, _LANE_ROWS, 2)).transpose(2, 3)
    return rows.unflatten(1, (-1, 2, _LANE_ROWS))


def _pieces(
    source: torch.Tensor, device: torch.device, piece_bytes: int
) -> Iterator[tuple[slice, slice, torch.Tensor]]:
    """(experts, tile rows, bytes [e, 64t, 2q, ...] of whole tiles on `device`)."""
    experts, rows, blocks, *width = source.shape
    if source.numel() == 0:
        return
    tiles, pairs = -(-rows // TILE_ROWS), -(-blocks // TILE_BLOCKS)
    shape = (TILE_ROWS, TILE_BLOCKS * pairs, *width)
    fit = max(1, piece_bytes // math.prod(shape))
    some_experts, some_tiles = min(experts, max(1, fit // tiles)), min(fit, tiles)
    whole = source.new_zeros(
        (some_experts, some_tiles * TILE_ROWS, *shape[1:]), device=device
    )
    for e in range(0, experts, some_experts):
        for t in range(0, tiles, some_tiles):
            rows_of = slice(t * TILE_ROWS, (t + some_tiles) * TILE_ROWS)
            part = source[e : e + some_experts, rows_of]
            count = -(-part.shape[1] // TILE_ROWS)
            padded = whole[: len(part), : count * TILE_ROWS]
            padded[:, : part.shape[1], :blocks].copy_(part)
            padded[:, part.shape[1] :].zero_()
            yield slice(e, e + len(part)), slice(t, t + count), padded
