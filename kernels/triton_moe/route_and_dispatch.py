"""Routing and dispatch of few tokens in one launch of one program.

One block [t, e] says which slot of a token an expert has, so that a slot's position
is counted, not sorted: slots of lower experts, plus those of earlier tokens.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from mxmoe.kernels.triton_moe.dispatch import Dispatch
from mxmoe.kernels.triton_moe.dispatch import dispatch
from mxmoe.kernels.triton_moe.dispatch import empty_dispatch
from mxmoe.kernels.triton_moe.dispatch import write_tiles
from mxmoe.kernels.triton_moe.next_launch import chained
from mxmoe.kernels.triton_moe.next_launch import start_next
from mxmoe.kernels.triton_moe.next_launch import wait
from mxmoe.kernels.triton_moe.route import choose
from mxmoe.kernels.triton_moe.route import empty_routing
from mxmoe.kernels.triton_moe.route import padded_experts
from mxmoe.kernels.triton_moe.route import route
from mxmoe.kernels.triton_moe.route import store_routing
from mxmoe.reference.types import Routing

# Logits that one program takes: 8 tokens of 128 experts, 4 for each thread of 8 warps
# (2 us less at 4 tokens on an H100 than 16 for each). For more tokens a second launch
# costs less than a program that has everything to do.
_MOST_LOGITS = 1024
_LOGITS_OF_WARP = 128


def route_and_dispatch(
    logits: torch.Tensor,
    top_k: int,
    *,
    routed_scaling: float = 1.0,
    first_expert: int,
    experts: int,
    block_t: int,
) -> tuple[Routing, Dispatch]:
    """`route`, then `dispatch` of its ids: in one launch where that is faster."""
    tokens, all_experts = logits.shape
    padded = padded_experts(all_experts)
    rows = triton.next_power_of_2(tokens)
    if tokens == 0 or rows * padded > _MOST_LOGITS:
        routing = route(logits, top_k, routed_scaling=routed_scaling)
        return routing, dispatch(
            routing.ids, first_expert=first_expert, experts=experts, block_t=block_t
        )
    routing = empty_routing(logits, top_k)
    made = empty_dispatch(tokens * top_k, experts, block_t, logits.device)
    with torch.cuda.device_of(logits):
        _route_and_dispatch_kernel[(1,)](
            *(logits, tokens, all_experts, *logits.stride(), routed_scaling),
            *(routing.ids, routing.weights, first_expert, experts),
            *(made.slots, made.expert_start, *made.tiles()),
            made.tile_expert.shape[0],
            TOP_K=top_k,
            ROWS=rows,
            EXPERTS=padded,
            ALL_SERVED=experts == all_experts,
            BLOCK_T=block_t,
            **chained(logits.device),
            num_warps=max(1, rows * padded // _LOGITS_OF_WARP),
        )
    return routing, made


# For `logits_expert` see `route`; the others would only be compiled once more.
_UNSPECIALIZED = (
    *("tokens", "all_experts", "logits_expert"),
    *("first_expert", "experts", "bound"),
)


@triton.jit(do_not_specialize=_UNSPECIALIZED)
def _route_and_dispatch_kernel(
    logits,
    tokens,
    all_experts,
    logits_token,
    logits_expert,
    routed_scaling,
    ids,
    weights,
    first_expert,
    experts,
    placed,
    expert_start,
    tile_expert,
    tile_start,
    tile_stop,
    bound,
    TOP_K: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    EXPERTS: tl.constexpr,  # noqa: N803
    ALL_SERVED: tl.constexpr,  # noqa: N803
    BLOCK_T: tl.constexpr,  # noqa: N803
    CHAINED: tl.constexpr,  # noqa: N803
):
    start_next(CHAINED)
    wait(CHAINED)
    token = tl.arange(0, ROWS)
    slot, weight = choose(
        logits,
        token,
        tokens,
        all_experts,
        logits_token,
        logits_expert,
        routed_scaling,
        TOP_K,
        ROWS,
        EXPERTS,
    )
    store_routing(ids, weights, token, slot, weight, TOP_K, EXPERTS)
    expert = tl.arange(0, EXPERTS) - first_expert
    of_rank = (expert >= 0) & (expert < experts)
    served = ((slot < TOP_K) & of_rank[None, :]).to(tl.int32)
    total = tl.sum(served, axis=0)
    position = (tl.cumsum(total) - total)[None, :] + tl.cumsum(served, 0) - served
    tl.store(placed + position, token[:, None] * TOP_K + slot, mask=served > 0)
    if not ALL_SERVED:
        _place_the_rest(placed, token, slot, served, tl.sum(total), TOP_K)
    write_tiles(
        expert,
        total,
        expert_start,
        tile_expert,
        tile_start,
        tile_stop,
        experts,
        bound,
        0,
        1,
        BLOCK_T,
        EXPERTS,
    )


@triton.jit
def _place_the_rest(placed, token, slot, served, position, TOP_K: tl.constexpr):  # noqa: N803
    """Slots of no expert of this rank, ascending, from `position` on."""
    rest = (slot < TOP_K).to(tl.int32) - served
    of_token = tl.sum(rest, axis=1)
    at = position + tl.cumsum(of_token) - of_token
    for k in range(TOP_K):
        here = tl.sum(tl.where(slot == k, rest, 0), axis=1)
        tl.store(placed + at, token * TOP_K + k, mask=here > 0)
        at += here
