"""The decoder of the GEMMs on its own: checkpoint blocks to numbers."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from mxmoe.kernels.triton_moe.decode import decode_tiles
from mxmoe.kernels.triton_moe.geometry import LARGEST_NARROW_SCALE
from mxmoe.kernels.triton_moe.tiles import place_scales
from mxmoe.kernels.triton_moe.tiles import place_weights

_PIECE_BYTES = 2**22


def decode_blocks(
    blocks: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """uint8 [..., g, 16], biased exponents uint8 [..., g] -> `dtype` [..., 32 g].

    The bytes are laid out as weights are, and read as the GEMMs read them.
    """
    *leading, groups = scales.shape
    rows = scales.numel() // groups if groups else 0
    if rows == 0:
        return torch.empty(*leading, 32 * groups, dtype=dtype, device=scales.device)
    tiles = (triton.cdiv(rows, 64), triton.cdiv(groups, 2))
    padded = scales.new_zeros(1, 64 * tiles[0], groups)
    padded[0, :rows] = scales.reshape(rows, groups)
    codes = blocks.new_zeros(1, 64 * tiles[0], groups, 16)
    codes[0, :rows] = blocks.reshape(rows, groups, 16)
    words = blocks.new_zeros(1, *tiles, 2048)
    factors = scales.new_zeros(1, *tiles, 128)
    place_weights(words, codes, gated=False, piece_bytes=_PIECE_BYTES)
    place_scales(factors, padded, gated=False, piece_bytes=_PIECE_BYTES)
    exact = torch.float32 if scales.device.type == "cpu" else torch.bfloat16
    out = torch.empty(64 * tiles[0], 64 * tiles[1], dtype=exact, device=scales.device)
    with torch.cuda.device_of(out):
        _decode_kernel[tiles](
            out,
            words.view(torch.uint32),
            factors.view(torch.uint32),
            WIDE_SCALES=bool((scales > LARGEST_NARROW_SCALE).any()),
        )
    return out[:rows, : 32 * groups].to(dtype).reshape(*leading, 32 * groups)


@triton.jit
def _decode_kernel(out, words, scales, WIDE_SCALES: tl.constexpr):  # noqa: N803
    row, column = tl.program_id(0), tl.program_id(1)
    columns = tl.num_programs(1)
    tile = row * columns + column
    w = tl.load(words + tile * 512 + tl.arange(0, 512)[None, :])
    s = tl.load(scales + tile * 32 + tl.arange(0, 32)[None, :])
    decoded = decode_tiles(w, s, 1, 1, WIDE_SCALES)
    r = row * 64 + tl.arange(0, 64)[:, None]
    c = column * 64 + tl.arange(0, 64)[None, :]
    tl.store(out + r.to(tl.int64) * columns * 64 + c, decoded)
