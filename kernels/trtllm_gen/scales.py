"""Block scales: rows as the weights have them, then tiles of 128 rows x 4 columns."""

from __future__ import annotations

import torch

from mxmoe.kernels.trtllm_gen.rows import permute_rows
from mxmoe.kernels.trtllm_gen.rows import zero_around
from mxmoe.kernels.trtllm_gen.words import in_words

# The scratch between the two moves stays in the cache that cores share (2 MB is small
# for it), yet is large enough to make the cost of a call small.
_SCRATCH_BYTES = 2**21


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
    scratch = destination.new_empty((step, rows, columns))
    _, filled_rows, filled_columns = source.shape
    zero_around(scratch, filled_rows, filled_columns)
    for first in range(0, experts, step):
        part = source[first : first + step]
        used = scratch[: len(part)]
        filled = used[:, :filled_rows, :filled_columns]
        permute_rows(filled, part, block=block, gated=gated)
        _swizzle(destination[first : first + step], used)


def _swizzle(destination: torch.Tensor, source: torch.Tensor) -> None:
    """off(r, c) = (r div 128) 128 C + (c div 4) 512 + (r mod 32) 16
    + ((r mod 128) div 32) 4 + c mod 4: NVIDIA's block-scaling tiles (tcgen05.mma).
    """
    experts, rows, columns = source.shape
    tiles = source.view(experts, rows // 128, 4, 32, columns // 4, 4)
    to = destination.view(experts, rows // 128, columns // 4, 32, 4, 4)
    to, tiles = in_words(to, tiles.transpose(2, 4))
    to.copy_(tiles)
