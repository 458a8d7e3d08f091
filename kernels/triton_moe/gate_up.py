"""GEMM1: gathers the tokens of an expert, decodes its weights, adds bias, SwiGLU."""

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
from mxmoe.kernels.triton_moe.weight_gemm import LEAST_TOKENS
from mxmoe.kernels.triton_moe.weight_gemm import TILE_SCALES
from mxmoe.kernels.triton_moe.weight_gemm import TILE_WORDS
from mxmoe.kernels.triton_moe.weight_gemm import load_bias
from mxmoe.kernels.triton_moe.weight_gemm import multiply
from mxmoe.kernels.triton_moe.weight_gemm import options

# Up to so many slots this kernel waits for the routing before it is launched. Were the
# second GEMM's programs launched beside programs that came early, an H100 would spread
# them unevenly: 47 in place of 40 us at one token, 72 in place of 58 at two.
_FEW_SLOTS = 12


def gate_up(
    hidden_states: torch.Tensor,
    layer: Layer,
    dispatch: Dispatch,
    tactic: Tactic,
    *,
    top_k: int,
    traced: torch.Tensor | None = None,
) -> torch.Tensor:
    """The activation [n, lanes] of every slot, row = sorted position.

    hidden_states [t, h], rows of any stride. traced: float32 [n, 2 lanes], receives
    gate and up before SwiGLU, interleaved as in the checkpoint.
    """
    weights, gemm = layer.gate_up, tactic.gate_up
    slots = len(dispatch.slots)
    activation = hidden_states.new_empty(slots, layer.lanes)
    row_tiles, k_tiles = weights.words.shape[1:3]
    programs = len(dispatch.tile_expert) * triton.cdiv(row_tiles, gemm.rows)
    if programs == 0:
        return activation
    with torch.cuda.device_of(hidden_states):
        _gate_up_kernel[(programs,)](
            activation,
            activation if traced is None else traced,
            hidden_states,
            *weights.pointers(),
            dispatch.slots,
            *dispatch.tiles(),
            *(hidden_states.stride(0), layer.hidden, layer.lanes, row_tiles, k_tiles),
            *(layer.alpha, layer.beta, layer.limit, top_k),
            TRACED=traced is not None,
            **options(weights, layer, gemm, tactic.block_t, columns=layer.hidden),
            **chained(hidden_states.device, slots > _FEW_SLOTS),
        )
    return activation


@triton.jit(do_not_specialize=["row_tiles", "k_tiles", "top_k"])
def _gate_up_kernel(
    activation,
    traced,
    x,
    words,
    scales,
    bias,
    slots,
    tile_expert,
    tile_start,
    tile_stop,
    x_stride,
    hidden,
    lanes,
    row_tiles,
    k_tiles,
    alpha,
    beta,
    limit,
    top_k,
    HAS_BIAS: tl.constexpr,  # noqa: N803
    TRACED: tl.constexpr,  # noqa: N803
    WIDE_SCALES: tl.constexpr,  # noqa: N803
    EVEN_K: tl.constexpr,  # noqa: N803
    N: tl.constexpr,  # noqa: N803
    K: tl.constexpr,  # noqa: N803
    BLOCK_T: tl.constexpr,  # noqa: N803
    STAGES: tl.constexpr,  # noqa: N803
    WGMMA: tl.constexpr,  # noqa: N803
    CHAINED: tl.constexpr,  # noqa: N803
):
    """One program: 64 N rows (32 N channels) of one expert, BLOCK_T of its slots."""
    programs = tl.cdiv(row_tiles, N)
    token_tile = tl.program_id(0) // programs
    first_row = tl.program_id(0) % programs * N
    wait(CHAINED)
    expert = tl.load(tile_expert + token_tile)
    start = tl.load(tile_start + token_tile)
    stop = tl.load(tile_stop + token_tile)
    if expert < 0:
        return
    tensors = (activation, traced, x, words, scales, bias, slots)
    where = (start, stop, expert.to(tl.int64), first_row)
    sizes = (x_stride, hidden, lanes, row_tiles, k_tiles, alpha, beta, limit, top_k)
    format: tl.constexpr = (HAS_BIAS, TRACED, WIDE_SCALES, CHAINED)
    steps: tl.constexpr = (EVEN_K, N, K, STAGES, WGMMA)
    if stop - start > BLOCK_T // 2 or BLOCK_T == LEAST_TOKENS:
        _gate_up_tile(tensors, where, sizes, format, steps, BLOCK_T)
    elif stop - start > BLOCK_T // 4 or BLOCK_T == 2 * LEAST_TOKENS:
        _gate_up_tile(tensors, where, sizes, format, steps, BLOCK_T // 2)
    else:
        _gate_up_tile(tensors, where, sizes, format, steps, BLOCK_T // 4)


@triton.jit
def _gate_up_tile(
    tensors,
    where,
    sizes,
    format: tl.constexpr,
    steps: tl.constexpr,
    BLOCK_T: tl.constexpr,  # noqa: N803
):
    """The work of a program, for up to BLOCK_T slots start .. stop."""
    activation, traced, x, words, scales, bias, slots = tensors
    start, stop, expert, first_row = where
    x_stride, hidden, lanes, row_tiles, k_tiles, alpha, beta, limit, top_k = sizes
    HAS_BIAS: tl.constexpr = format[0]  # noqa: N806
    TRACED: tl.constexpr = format[1]  # noqa: N806
    WIDE_SCALES: tl.constexpr = format[2]  # noqa: N806
    CHAINED: tl.constexpr = format[3]  # noqa: N806
    EVEN_K: tl.constexpr = steps[0]  # noqa: N806
    N: tl.constexpr = steps[1]  # noqa: N806
    K: tl.constexpr = steps[2]  # noqa: N806
    STAGES: tl.constexpr = steps[3]  # noqa: N806
    WGMMA: tl.constexpr = steps[4]  # noqa: N806
    position = start + tl.arange(0, BLOCK_T)
    present = position < stop
    slot = tl.load(slots + position, mask=present, other=0)
    x_rows = x + (slot // top_k).to(tl.int64) * x_stride
    row = expert * row_tiles + first_row
    # Loaded here, added at the end: nothing waits for it.
    added = load_bias(bias, row, row_tiles - first_row, HAS_BIAS, N)
    sums = multiply(
        words + row * k_tiles * TILE_WORDS,
        scales + row * k_tiles * TILE_SCALES,
        *(x_rows, present, row_tiles - first_row, 0, k_tiles, k_tiles, hidden),
        *(N, K, BLOCK_T, EVEN_K, WIDE_SCALES, STAGES, WGMMA),
    )
    start_next(CHAINED)
    channel = first_row * 32 + tl.arange(0, 32 * N)[:, None]
    sums += added[:, None]
    # Rows 16a + 8u + r: gate (u = 0) and up (u = 1) of channel 8a + r.
    halves = tl.permute(tl.reshape(sums, (4 * N, 2, 8, BLOCK_T)), (0, 2, 3, 1))
    gate, up = tl.split(halves)
    gate = tl.reshape(gate, (32 * N, BLOCK_T))
    up = tl.reshape(up, (32 * N, BLOCK_T))
    inside = (channel < lanes) & present[None, :]
    at = position[None, :].to(tl.int64) * lanes + channel
    if TRACED:
        tl.store(traced + 2 * at, gate, mask=inside)
        tl.store(traced + 2 * at + 1, up, mask=inside)
    product = _swiglu(gate, up, alpha, beta, limit)
    tl.store(activation + at, product.to(activation.dtype.element_ty), mask=inside)


@triton.jit
def _swiglu(gate, up, alpha, beta, limit):
    """gate' sigmoid(alpha gate') (up' + beta); NaN is not clamped away."""
    gate = tl.where(gate > limit, limit, gate)
    up = tl.where(up > limit, limit, tl.where(up < -limit, -limit, up))
    return gate / (1 + tl.exp(-alpha * gate)) * (up + beta)
