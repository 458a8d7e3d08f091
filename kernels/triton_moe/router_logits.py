"""Router logits: x @ W^T + b with float32 accumulation, in one launch.

Few tokens are bound by the latency of reading W once, so every program takes one
expert and no matrix instruction. Many tokens use `tl.dot`, with tiles that give
each of the 132 SMs of an H100 about one program.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from mxmoe.kernels.triton_moe.device import has_dependent_launch
from mxmoe.kernels.triton_moe.next_launch import start_next

# Tokens up to which a program takes one expert. x is then read once for each expert:
# 128 x 16 x 5.8 KB = 12 MB from the L2 cache for gpt-oss, about 3 us.
_FEW_TOKENS = 16
# Tokens of such a program: their rows share the expert's row. With 4 of them a program
# takes 2 us longer on an H100.
_FEW_ROWS = 2
# One row of gpt-oss (2880) fits, so that all its loads are on their way together.
_MOST_COLUMNS = 4096

# Up to so many tokens: tile of tokens, of experts, of columns of h. With 128 experts
# there are then 32 to 256 tiles for the 132 SMs of an H100.
_TILES = (
    (256, (16, 16, 256)),
    (1024, (16, 32, 256)),
    (4096, (64, 32, 128)),
)
_LARGEST_TILE = (64, 128, 64)
# Operands of float32 products live in registers, so they are small. From 64 tokens on,
# Triton 3.6 and 3.7 would compile them for sm_100 to TF32 whatever is asked for.
_FLOAT32_TILE = (16, 32, 32)
# Four of the widest stages (24 KB) fit into the shared memory of sm_80, too.
_STAGES = 4


def router_logits(
    x: torch.Tensor, router_weight: torch.Tensor, router_bias: torch.Tensor | None
) -> torch.Tensor:
    """logits[t, e] = sum_h x[t, h] * router_weight[e, h] + router_bias[e].

    x : floating [t, h], usually bfloat16; router_weight : floating [e, h]; both with
    any strides. Products of two bfloat16 are exact; of any others, both factors are
    first rounded to float32 (float64 alone loses by it), and so is the product.
    router_bias : floating [e], or None. Returns float32 [t, e], contiguous.
    """
    tokens, experts = x.shape[0], router_weight.shape[0]
    out = torch.empty((tokens, experts), dtype=torch.float32, device=x.device)
    if tokens == 0:
        return out
    bias_stride = 0 if router_bias is None else router_bias.stride(0)
    arguments = (
        *(x, router_weight, router_bias, out, tokens, experts, x.shape[1]),
        *(*x.stride(), *router_weight.stride(), bias_stride),
    )
    with torch.cuda.device_of(x):
        if tokens <= _FEW_TOKENS:
            rows = min(_FEW_ROWS, triton.next_power_of_2(tokens))
            _few_kernel[(experts, triton.cdiv(tokens, rows))](
                *arguments,
                ROWS=rows,
                COLUMNS=min(_MOST_COLUMNS, triton.next_power_of_2(x.shape[1])),
                CHAINED=has_dependent_launch(x.device),
            )
        else:
            exact = x.dtype == router_weight.dtype == torch.bfloat16
            block_t, block_e, block_h = tile(tokens, experts, exact=exact)
            _many_kernel[(triton.cdiv(tokens, block_t), triton.cdiv(experts, block_e))](
                *arguments,
                EXACT=exact,
                BLOCK_T=block_t,
                BLOCK_E=block_e,
                BLOCK_H=block_h,
                CHAINED=has_dependent_launch(x.device),
                num_stages=_STAGES,
            )
    return out


def tile(tokens: int, experts: int, *, exact: bool) -> tuple[int, int, int]:
    """Tokens, experts and columns of h of one program's step, for many tokens."""
    fitting = (blocks for most, blocks in _TILES if tokens <= most)
    chosen = next(fitting, _LARGEST_TILE) if exact else _FLOAT32_TILE
    block_t, block_e, block_h = chosen
    return block_t, min(block_e, max(16, triton.next_power_of_2(experts))), block_h


@triton.jit(do_not_specialize=["tokens"])
def _few_kernel(
    x,
    weight,
    bias,
    out,
    tokens,
    experts,
    hidden,
    x_token,
    x_h,
    weight_expert,
    weight_h,
    bias_expert,
    ROWS: tl.constexpr,  # noqa: N803
    COLUMNS: tl.constexpr,  # noqa: N803
    CHAINED: tl.constexpr,  # noqa: N803
):
    start_next(CHAINED)
    expert = tl.program_id(0).to(tl.int64)
    token = tl.program_id(1).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    total = tl.zeros([ROWS], tl.float32)
    for first in range(0, hidden, COLUMNS):
        h = (first + tl.arange(0, COLUMNS)).to(tl.int64)
        w = tl.load(
            weight + expert * weight_expert + h * weight_h, mask=h < hidden, other=0.0
        )
        rows = tl.load(
            x + token[:, None] * x_token + h[None, :] * x_h,
            mask=(token[:, None] < tokens) & (h[None, :] < hidden),
            other=0.0,
        )
        total += tl.sum(rows.to(tl.float32) * w.to(tl.float32)[None, :], axis=1)
    if bias is not None:
        total += tl.load(bias + expert * bias_expert).to(tl.float32)
    tl.store(out + token * experts + expert, total, mask=token < tokens)


@triton.jit(do_not_specialize=["tokens"])
def _many_kernel(
    x,
    weight,
    bias,
    out,
    tokens,
    experts,
    hidden,
    x_token,
    x_h,
    weight_expert,
    weight_h,
    bias_expert,
    EXACT: tl.constexpr,  # noqa: N803
    BLOCK_T: tl.constexpr,  # noqa: N803
    BLOCK_E: tl.constexpr,  # noqa: N803
    BLOCK_H: tl.constexpr,  # noqa: N803
    CHAINED: tl.constexpr,  # noqa: N803
):
    start_next(CHAINED)
    token = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    expert = tl.program_id(1).to(tl.int64) * BLOCK_E + tl.arange(0, BLOCK_E)
    total = tl.zeros([BLOCK_T, BLOCK_E], tl.float32)
    for first in range(0, hidden, BLOCK_H):
        h = (first + tl.arange(0, BLOCK_H)).to(tl.int64)
        rows = tl.load(
            x + token[:, None] * x_token + h[None, :] * x_h,
            mask=(token[:, None] < tokens) & (h[None, :] < hidden),
            other=0.0,
        )
        w = tl.load(
            weight + expert[None, :] * weight_expert + h[:, None] * weight_h,
            mask=(expert[None, :] < experts) & (h[:, None] < hidden),
            other=0.0,
        )
        if EXACT:
            total = tl.dot(rows, w, total)
        else:
            rows, w = rows.to(tl.float32), w.to(tl.float32)
            total = tl.dot(rows, w, total, input_precision="ieee")
    if bias is not None:
        there = expert < experts
        added = tl.load(bias + expert * bias_expert, mask=there, other=0.0)
        total += added.to(tl.float32)[None, :]
    at = token[:, None] * experts + expert[None, :]
    there = (token[:, None] < tokens) & (expert[None, :] < experts)
    tl.store(out + at, total, mask=there)
