"""GEMM2: the activation of an expert's slots times its weights, and the bias."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from mxmoe.kernels.triton_moe.dispatch import Dispatch
from mxmoe.kernels.triton_moe.layer import Layer
from mxmoe.kernels.triton_moe.next_launch import chained
from mxmoe.kernels.triton_moe.next_launch import start_next
from mxmoe.kernels.triton_moe.next_launch import wait
from mxmoe.kernels.triton_moe.tactics import Tactic
from mxmoe.kernels.triton_moe.tactics import split_tiles
from mxmoe.kernels.triton_moe.weight_gemm import LEAST_TOKENS
from mxmoe.kernels.triton_moe.weight_gemm import TILE_SCALES
from mxmoe.kernels.triton_moe.weight_gemm import TILE_WORDS
from mxmoe.kernels.triton_moe.weight_gemm import load_bias
from mxmoe.kernels.triton_moe.weight_gemm import multiply
from mxmoe.kernels.triton_moe.weight_gemm import options


def down(
    activation: torch.Tensor, layer: Layer, dispatch: Dispatch, tactic: Tactic
) -> torch.Tensor:
    """Partial sums float32 [splits, n, h], row = slot; served slots only.

    activation [n, lanes], row = sorted position. Their sum over the splits is the
    slot's `down`; the first one has the bias.
    """
    weights, gemm = layer.down, tactic.down
    sums = torch.empty(
        (tactic.splits, len(activation), layer.hidden),
        dtype=torch.float32,
        device=activation.device,
    )
    row_tiles, k_tiles = weights.words.shape[1:3]
    programs = len(dispatch.tile_expert) * triton.cdiv(row_tiles, gemm.rows)
    if programs == 0:
        return sums
    with torch.cuda.device_of(activation):
        _down_kernel[(programs, tactic.splits)](
            sums,
            activation,
            *weights.pointers(),
            dispatch.slots,
            *dispatch.tiles(),
            *(len(activation), layer.hidden, layer.lanes),
            *(row_tiles, k_tiles, split_tiles(k_tiles, tactic)),
            **options(weights, layer, gemm, tactic.block_t, columns=layer.lanes),
            **chained(activation.device),
        )
    return sums


@triton.jit(do_not_specialize=["slot_count", "row_tiles", "k_tiles", "split_tiles"])
def _down_kernel(
    down,
    activation,
    words,
    scales,
    bias,
    slots,
    tile_expert,
    tile_start,
    tile_stop,
    slot_count,
    hidden,
    lanes,
    row_tiles,
    k_tiles,
    split_tiles,
    HAS_BIAS: tl.constexpr,  # noqa: N803
    WIDE_SCALES: tl.constexpr,  # noqa: N803
    EVEN_K: tl.constexpr,  # noqa: N803
    N: tl.constexpr,  # noqa: N803
    K: tl.constexpr,  # noqa: N803
    BLOCK_T: tl.constexpr,  # noqa: N803
    STAGES: tl.constexpr,  # noqa: N803
    WGMMA: tl.constexpr,  # noqa: N803
    CHAINED: tl.constexpr,  # noqa: N803
):
    """One program: 64 N rows of one expert, BLOCK_T slots, one split of the lanes."""
    programs = tl.cdiv(row_tiles, N)
    token_tile = tl.program_id(0) // programs
    first_row = tl.program_id(0) % programs * N
    wait(CHAINED)
    expert = tl.load(tile_expert + token_tile)
    start = tl.load(tile_start + token_tile)
    stop = tl.load(tile_stop + token_tile)
    row = expert.to(tl.int64) * row_tiles + first_row
    first_tile = tl.program_id(1) * split_tiles
    last_tile = tl.minimum(k_tiles, first_tile + split_tiles)
    if expert < 0:
        return
    tensors = (down, activation, words, scales, bias, slots)
    where = (start, stop, row, first_row, first_tile, last_tile)
    sizes = (slot_count, hidden, lanes, row_tiles, k_tiles)
    flags: tl.constexpr = (HAS_BIAS, WIDE_SCALES, EVEN_K, N, K, STAGES, WGMMA, CHAINED)
    if stop - start > BLOCK_T // 2 or BLOCK_T == LEAST_TOKENS:
        _down_tile(tensors, where, sizes, flags, BLOCK_T)
    elif stop - start > BLOCK_T // 4 or BLOCK_T == 2 * LEAST_TOKENS:
        _down_tile(tensors, where, sizes, flags, BLOCK_T // 2)
    else:
        _down_tile(tensors, where, sizes, flags, BLOCK_T // 4)


@triton.jit
def _down_tile(
    tensors,
    where,
    sizes,
    flags: tl.constexpr,
    BLOCK_T: tl.constexpr,  # noqa: N803
):
    """The work of a program, for up to BLOCK_T slots start .. stop."""
    down, activation, words, scales, bias, slots = tensors
    start, stop, row, first_row, first_tile, last_tile = where
    slot_count, hidden, lanes, row_tiles, k_tiles = sizes
    HAS_BIAS: tl.constexpr = flags[0]  # noqa: N806
    WIDE_SCALES: tl.constexpr = flags[1]  # noqa: N806
    EVEN_K: tl.constexpr = flags[2]  # noqa: N806
    N: tl.constexpr = flags[3]  # noqa: N806
    K: tl.constexpr = flags[4]  # noqa: N806
    STAGES: tl.constexpr = flags[5]  # noqa: N806
    WGMMA: tl.constexpr = flags[6]  # noqa: N806
    CHAINED: tl.constexpr = flags[7]  # noqa: N806
    position = start + tl.arange(0, BLOCK_T)
    present = position < stop
    rows = activation + position.to(tl.int64) * lanes
    sums = multiply(
        words + row * k_tiles * TILE_WORDS,
        scales + row * k_tiles * TILE_SCALES,
        *(rows, present, row_tiles - first_row, first_tile, last_tile, k_tiles, lanes),
        *(N, K, BLOCK_T, EVEN_K, WIDE_SCALES, STAGES, WGMMA),
    )
    start_next(CHAINED)
    has_bias = HAS_BIAS and first_tile == 0
    sums += load_bias(bias, row, row_tiles - first_row, has_bias, N)[:, None]
    slot = tl.load(slots + position, mask=present, other=0)
    column = first_row * 64 + tl.arange(0, 64 * N)
    split = tl.program_id(1).to(tl.int64)
    at = (split * slot_count + slot[None, :]) * hidden + column[:, None]
    inside = (column < hidden)[:, None] & present[None, :]
    tl.store(down + at, sums, mask=inside)
