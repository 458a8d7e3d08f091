"""Routing: the k largest logits of each token, and their softmax, in one launch.

The rule is the reference's: logits are compared as they are, the lowest expert id
wins a tie, +0 ties with -0, NaN ranks above every number. So ids are distinct and in
range whatever the logits hold. Comparisons are made on integers (`ordered`), which
decides every case and lets one warp find a maximum in one instruction.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from mxmoe.kernels.triton_moe.next_launch import chained
from mxmoe.kernels.triton_moe.next_launch import start_next
from mxmoe.kernels.triton_moe.next_launch import wait
from mxmoe.reference.types import Routing


def route(logits: torch.Tensor, top_k: int, *, routed_scaling: float = 1.0) -> Routing:
    """Choose `top_k` experts for each token, and weigh them.

    logits : float32, bfloat16 or float16 [t, e] on a GPU, with any strides.
    Returns ids int32 [t, k] from 0 to e - 1, largest logit first, and weights
    float32 [t, k]: the softmax in float32 of the chosen logits, times
    `routed_scaling`. The caller sees to 1 <= top_k <= e.
    """
    tokens, experts = logits.shape
    routing = empty_routing(logits, top_k)
    if tokens == 0:
        return routing
    with torch.cuda.device_of(logits):
        # A token is one warp's, so that no thread waits for another warp.
        _route_kernel[(tokens,)](
            *(logits, routing.ids, routing.weights, tokens, experts),
            *(*logits.stride(), routed_scaling),
            TOP_K=top_k,
            EXPERTS=padded_experts(experts),
            **chained(logits.device),
            num_warps=1,
        )
    return routing


def empty_routing(logits: torch.Tensor, top_k: int) -> Routing:
    """Room for the routing of `logits`."""
    shape = (logits.shape[0], top_k)
    return Routing(
        torch.empty(shape, dtype=torch.int32, device=logits.device),
        torch.empty(shape, dtype=torch.float32, device=logits.device),
    )


def padded_experts(experts: int) -> int:
    """The length of a block that holds one entry for each expert."""
    return max(16, triton.next_power_of_2(experts))


@triton.jit
def ordered(logits):
    """int32 that compare as the logits do: -0 as +0, every NaN as the largest."""
    # Not `logits + 0.0`, which a compiler may take for `logits`.
    logits = tl.where(logits == 0.0, 0.0, logits)
    bits = logits.to(tl.int32, bitcast=True)
    # Negative numbers compare backwards by their magnitude.
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return tl.where(logits == logits, bits, 0x7FFFFFFF)


@triton.jit
def logit_of(key):
    """The logit of an `ordered` key."""
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def choose(
    logits,
    token,
    tokens,
    experts,
    logits_token,
    logits_expert,
    routed_scaling,
    TOP_K: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    EXPERTS: tl.constexpr,  # noqa: N803
):
    """Slots int32 and weights float32 [ROWS, EXPERTS] of the tokens `token` [ROWS].

    Slot k says that the expert is the token's k-th; TOP_K, that it is not chosen.
    """
    # Below every key: -Inf, the lowest logit, has the key -0x7F800001.
    lowest: tl.constexpr = -0x80000000
    expert = tl.arange(0, EXPERTS)[None, :]
    at = token.to(tl.int64)[:, None] * logits_token + expert * logits_expert
    there = (token < tokens)[:, None] & (expert < experts)
    loaded = tl.load(logits + at, mask=there, other=0.0).to(tl.float32)
    keys = tl.where(there, ordered(loaded), lowest)
    largest = logit_of(tl.max(keys, axis=1))[:, None]
    slot = tl.full([ROWS, EXPERTS], TOP_K, tl.int32)
    for k in range(TOP_K):
        best = tl.max(keys, axis=1)[:, None]
        first = tl.min(tl.where(keys == best, expert, EXPERTS), axis=1)[:, None]
        slot = tl.where(expert == first, k, slot)
        keys = tl.where(expert == first, lowest, keys)
    slot = tl.where(there, slot, TOP_K)
    parts = tl.where(slot < TOP_K, tl.exp(loaded - largest), 0.0)
    return slot, parts / tl.sum(parts, axis=1)[:, None] * routed_scaling


@triton.jit
def store_routing(
    ids,
    weights,
    token,
    slot,
    weight,
    TOP_K: tl.constexpr,  # noqa: N803
    EXPERTS: tl.constexpr,  # noqa: N803
):
    """Write what `choose` found to `ids` and `weights`, both [t, k] and contiguous."""
    expert = tl.arange(0, EXPERTS)[None, :]
    at = token.to(tl.int64)[:, None] * TOP_K + slot
    tl.store(ids + at, expert, mask=slot < TOP_K)
    tl.store(weights + at, weight, mask=slot < TOP_K)


# Were a stride of 1 known, a thread would load 4 logits at once, in a layout that the
# stores would have to leave through shared memory.
@triton.jit(do_not_specialize=["tokens", "experts", "logits_expert"])
def _route_kernel(
    logits,
    ids,
    weights,
    tokens,
    experts,
    logits_token,
    logits_expert,
    routed_scaling,
    TOP_K: tl.constexpr,  # noqa: N803
    EXPERTS: tl.constexpr,  # noqa: N803
    CHAINED: tl.constexpr,  # noqa: N803
):
    start_next(CHAINED)
    wait(CHAINED)
    token = tl.program_id(0) + tl.arange(0, 1)
    slot, weight = choose(
        logits,
        token,
        tokens,
        experts,
        logits_token,
        logits_expert,
        routed_scaling,
        TOP_K,
        1,
        EXPERTS,
    )
    store_routing(ids, weights, token, slot, weight, TOP_K, EXPERTS)
