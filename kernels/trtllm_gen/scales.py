"""Block scales: rows as the weights have them, then tiles of 128 rows x 4 columns.

    off(r, c) = (r div 128) 128 C + (c div 4) 512 + (r mod 32) 16
                + ((r mod 128) div 32) 4 + c mod 4

NVIDIA's block-scaling tiles for tcgen05.mma. Read from its end: four columns of one
row stay together, and rows r, r + 32, r + 64, r + 96 stand side by side. So rows are
first gathered into a scratch in the order 4 (r mod 32) + (r mod 128) div 32, which
costs nothing more, and then 128 rows x C / 4 words are transposed.
"""

from __future__ import annotations

import torch

from mxmoe.kernels.trtllm_gen.rows import ROW_GROUP
from mxmoe.kernels.trtllm_gen.rows import permute_rows
from mxmoe.kernels.trtllm_gen.words import in_words

_TILE_ROWS, _TILE_COLUMNS = 128, 4
_SIDE_BY_SIDE = _TILE_ROWS // ROW_GROUP

# Half of the 32 MB of cache that the cores of a server's chiplet share: the
# scratch is read back from there, and yet few calls are made.
_SCRATCH_BYTES = 2**24


def place_scales(
    destination: torch.Tensor, source: torch.Tensor, *, block: int, gated: bool
) -> None:
    """Write all of `destination`: `source` shuffled, padded with zeros, in tiles.

    destination : contiguous [e, R, C], R a multiple of 128 and C of 4; source as in
    `rows.place_rows`. Some experts at a time on the CPU, all at once on a GPU.
    """
    experts, rows, columns = destination.shape
    fit = experts if destination.is_cuda else _SCRATCH_BYTES // (rows * columns)
    step = min(max(1, fit), experts)
    # The padding is never written again.
    scratch = destination.new_zeros((step, rows, columns))
    for first in range(0, experts, step):
        part = source[first : first + step]
        used = scratch[: len(part)]
        _gather(used, part, block=block, gated=gated)
        _transpose(destination[first : first + step], used)


def _gather(
    scratch: torch.Tensor, source: torch.Tensor, *, block: int, gated: bool
) -> None:
    groups = source.unflatten(1, (-1, ROW_GROUP))
    tiles = scratch.unflatten(1, (-1, ROW_GROUP, _SIDE_BY_SIDE))
    for side in range(_SIDE_BY_SIDE):
        part = groups[:, side::_SIDE_BY_SIDE]
        to = tiles[:, : part.shape[1], :, side, : part.shape[3]]
        permute_rows(to, part, block=block, gated=gated)


def _transpose(destination: torch.Tensor, scratch: torch.Tensor) -> None:
    experts, _, columns = scratch.shape
    tiles = scratch.view(
        experts, -1, _TILE_ROWS, columns // _TILE_COLUMNS, _TILE_COLUMNS
    )
    to = destination.view(
        experts, -1, columns // _TILE_COLUMNS, _TILE_ROWS, _TILE_COLUMNS
    )
    to, words = in_words(to, tiles.transpose(2, 3))
    to.copy_(words)
