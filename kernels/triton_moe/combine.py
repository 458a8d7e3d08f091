"""Combine: the weighted sum of each token's expert outputs, in one launch."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from mxmoe.kernels.triton_moe.next_launch import chained
from mxmoe.kernels.triton_moe.next_launch import wait

# One program's columns: 4 for each of 128 threads, a load of 16 bytes of float32.
_BLOCK_H = 512
_WARPS = 4
# Slots whose rows are on their way together; more would only add code.
_SLOTS_AT_ONCE = 8


def combine(
    y: torch.Tensor,
    ids: torch.Tensor,
    weights: torch.Tensor,
    *,
    first_expert: int,
    experts: int,
    out: torch.Tensor,
) -> torch.Tensor:
    """out[t, h] = sum over k, in order, of weights[t, k] * y[t * top_k + k, h].

    y is the sum over its splits, in order.

    Products and sums are float32, rounded once to the dtype of `out`. A slot counts
    if its id is one of this rank's, `first_expert` to `first_expert + experts - 1`;
    rows of y of other slots are not read, and their weights do not enter.

    y : float32 or bfloat16 [splits, t * k, h], contiguous. ids : int32 or int64
    [t, k]. weights : float32 or bfloat16 [t, k]. out : bfloat16 or float32 [t, h].
    All but y may have any strides.
    """
    tokens, top_k = ids.shape
    splits, slots, hidden = y.shape
    if tokens == 0:
        return out
    with torch.cuda.device_of(y):
        _combine_kernel[(tokens, triton.cdiv(hidden, _BLOCK_H))](
            *(y, slots, hidden),
            *(ids, *ids.stride(), weights, *weights.stride()),
            *(first_expert, experts, out, *out.stride()),
            SPLITS=splits,
            TOP_K=top_k,
            BLOCK_H=_BLOCK_H,
            SLOTS_AT_ONCE=min(top_k, _SLOTS_AT_ONCE),
            **chained(y.device),
            num_warps=_WARPS,
        )
    return out


@triton.jit(do_not_specialize=["slots", "first_expert", "experts"])
def _combine_kernel(
    y,
    slots,
    hidden,
    ids,
    ids_token,
    ids_k,
    weights,
    weights_token,
    weights_k,
    first_expert,
    experts,
    out,
    out_token,
    out_h,
    SPLITS: tl.constexpr,  # noqa: N803
    TOP_K: tl.constexpr,  # noqa: N803
    BLOCK_H: tl.constexpr,  # noqa: N803
    SLOTS_AT_ONCE: tl.constexpr,  # noqa: N803
    CHAINED: tl.constexpr,  # noqa: N803
):
    wait(CHAINED)
    token = tl.program_id(0).to(tl.int64)
    h = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    total = tl.zeros([BLOCK_H], tl.float32)
    for k in tl.range(0, TOP_K, loop_unroll_factor=SLOTS_AT_ONCE):
        local = tl.load(ids + token * ids_token + k * ids_k) - first_expert
        served = (local >= 0) & (local < experts)
        weight = tl.load(weights + token * weights_token + k * weights_k)
        row = y + (token * TOP_K + k) * hidden
        there = (h < hidden) & served
        value = tl.load(row + h, mask=there, other=0.0).to(tl.float32)
        for _ in tl.static_range(1, SPLITS):
            row += slots.to(tl.int64) * hidden
            value += tl.load(row + h, mask=there, other=0.0).to(tl.float32)
        # A weight of NaN, too, is no part of the sum where the slot is not served.
        part = weight.to(tl.float32) * value
        total += tl.where(served, part, 0.0)
    at = token * out_token + h.to(tl.int64) * out_h
    tl.store(out + at, total.to(out.dtype.element_ty), mask=h < hidden)
