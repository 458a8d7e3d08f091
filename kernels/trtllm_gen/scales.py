"""Block scales: rows as the weights have them, then tiles of 128 rows x 4 columns."""

from __future__ import annotations

import torch

from mxmoe.kernels.trtllm_gen.rows import place_rows
from mxmoe.kernels.trtllm_gen.words import in_words


def place_scales(
    destination: torch.Tensor,
    source: torch.Tensor,
    *,
    block: int,
    gated: bool,
) -> None:
    """Write all of `destination`: `source` shuffled, padded with zeros, in tiles.

    destination : contiguous [e, R, C], R a multiple of 128 and C of 4; source as in
    `place_rows`. On the CPU one expert at a time, whose scales stay in the cache
    between the two moves; a GPU takes all of them in two launches.
    """
    experts, rows, columns = destination.shape
    step = experts if destination.is_cuda else 1
    scratch = destination.new_empty((step, rows, columns))
    for first in range(0, experts, step):
        chunk = slice(first, first + step)
        place_rows(scratch, source[chunk], block=block, gated=gated)
        _swizzle(destination[chunk], scratch)


def _swizzle(destination: torch.Tensor, source: torch.Tensor) -> None:
    """off(r, c) = (r div 128) 128 C + (c div 4) 512 + (r mod 32) 16
    + ((r mod 128) div 32) 4 + c mod 4: NVIDIA's block-scaling tiles (tcgen05.mma).
    """
    experts, rows, columns = source.shape
    tiles = source.view(experts, rows // 128, 4, 32, columns // 4, 4)
    to = destination.view(experts, rows // 128, columns // 4, 32, 4, 4)
    to, tiles = in_words(to, tiles.transpose(2, 4))
    to.copy_(tiles)
