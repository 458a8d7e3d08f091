"""The loop of both GEMMs: 64-row tiles of weights times the rows of a token tile.

The weights are the *left* operand: their rows fill the tensor cores' 64 rows however
few tokens an expert has, and decoded weights stay in registers, the only operand that
may come from there. So out^T[rows, t] = W[rows, K] x^T[K, t].
"""

from __future__ import annotations

import triton
import triton.language as tl

from mxmoe.kernels.triton_moe.decode import decode_tiles
from mxmoe.kernels.triton_moe.device import has_wgmma
from mxmoe.kernels.triton_moe.layer import Layer
from mxmoe.kernels.triton_moe.layer import Weights
from mxmoe.kernels.triton_moe.tactics import GemmTactic

# Words of codes and words of scales of one tile of 64 x 64 weights.
TILE_WORDS = tl.constexpr(512)
TILE_SCALES = tl.constexpr(32)
# Columns of the narrowest product: below it Triton leaves wgmma for mma.sync.
LEAST_TOKENS = tl.constexpr(16)


def options(
    weights: Weights, layer: Layer, gemm: GemmTactic, block_t: int, *, columns: int
) -> dict[str, object]:
    """The constants of a GEMM's launch. columns : of its right operand in memory."""
    k_tiles = weights.words.shape[2]
    return {
        "HAS_BIAS": weights.bias is not None,
        "WIDE_SCALES": layer.wide_scales,
        # Neither the columns nor the tiles end within a step: no masks are needed.
        "EVEN_K": columns == 64 * k_tiles and k_tiles % gemm.columns == 0,
        "N": gemm.rows,
        "K": gemm.columns,
        "BLOCK_T": block_t,
        "STAGES": gemm.stages,
        "WGMMA": has_wgmma(weights.words.device),
        "num_warps": gemm.warps,
        **gemm.registers(),
    }


@triton.jit
def multiply(
    words,  # *uint32: the first tile of the first of N rows of tiles
    scales,  # *uint32
    x_rows,  # pointers [BLOCK_T]: column 0 of each token's row
    present,  # bool [BLOCK_T]
    row_tiles,  # that exist from the first on; fewer than N in the last program
    first_tile,  # of K
    last_tile,
    tiles,  # of a row of tiles in memory
    size,  # columns of x; beyond them it counts as 0
    N: tl.constexpr,  # noqa: N803
    K: tl.constexpr,  # noqa: N803
    BLOCK_T: tl.constexpr,  # noqa: N803
    EVEN_K: tl.constexpr,  # noqa: N803
    WIDE_SCALES: tl.constexpr,  # noqa: N803
    STAGES: tl.constexpr,  # noqa: N803
    WGMMA: tl.constexpr,  # noqa: N803
):
    """float32 [64 N, BLOCK_T]: the sum over the tiles first_tile .. last_tile."""
    # Rows of tiles that do not exist are computed twice, and not stored.
    n = tl.minimum(tl.arange(0, N), row_tiles - 1)[:, None].to(tl.int64) * tiles
    word = tl.arange(0, K * TILE_WORDS)[None, :]
    scale = tl.arange(0, K * TILE_SCALES)[None, :]
    k = tl.arange(0, 64 * K)[None, :]
    sums = tl.zeros((64 * N, BLOCK_T), dtype=tl.float32)
    for tile in tl.range(first_tile, last_tile, K, num_stages=STAGES):
        of_words = words + n * TILE_WORDS + (tile * TILE_WORDS + word)
        of_scales = scales + n * TILE_SCALES + (tile * TILE_SCALES + scale)
        of_x = x_rows[:, None] + (tile * 64 + k)
        if EVEN_K:
            w = tl.load(of_words)
            s = tl.load(of_scales)
            x = tl.load(of_x, mask=present[:, None], other=0.0)
        else:
            inside = tile + word // TILE_WORDS < last_tile
            w = tl.load(of_words, mask=inside, other=0)
            inside = tile + scale // TILE_SCALES < last_tile
            s = tl.load(of_scales, mask=inside, other=0)
            inside = present[:, None] & (tile * 64 + k < size)
            x = tl.load(of_x, mask=inside, other=0.0)
        weights = decode_tiles(w, s, N, K, WIDE_SCALES)
        sums = tl.dot(weights, tl.trans(x), sums, input_precision="ieee")
        if WGMMA:
            _wait_for_wgmma()
    return sums


@triton.jit
def load_bias(
    bias,  # float32 [e, rows of tiles * 64]
    row,  # of tiles, counted over experts
    row_tiles,  # that exist from it on
    there,  # else the bias is 0
    N: tl.constexpr,  # noqa: N803
):
    """float32 [64 N]"""
    at = tl.arange(0, 64 * N)
    return tl.load(bias + row * 64 + at, mask=there & (at < row_tiles * 64), other=0.0)


@triton.jit
def _wait_for_wgmma():
    """Ends the asynchronous multiplications before their registers are used again.

    Triton (3.6, 3.7) lets the last ones of an iteration run on into the next, which
    decodes other weights into registers that they may not have read yet: on an H100,
    with two warpgroups a program, wrong sums in most runs.
    """
    tl.inline_asm_elementwise(
        "wgmma.wait_group.sync.aligned 0; mov.b32 $0, 0;",
        "=r",
        [],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )
