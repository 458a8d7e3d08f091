"""The layer: its launches in order."""

from __future__ import annotations

import torch

from mxmoe.kernels.triton_moe.check_call import check_hidden_states
from mxmoe.kernels.triton_moe.check_call import check_router
from mxmoe.kernels.triton_moe.check_call import check_routing
from mxmoe.kernels.triton_moe.combine import combine
from mxmoe.kernels.triton_moe.dispatch import Dispatch
from mxmoe.kernels.triton_moe.dispatch import dispatch
from mxmoe.kernels.triton_moe.down import down
from mxmoe.kernels.triton_moe.gate_up import gate_up
from mxmoe.kernels.triton_moe.layer import Layer
from mxmoe.kernels.triton_moe.route_and_dispatch import route_and_dispatch
from mxmoe.kernels.triton_moe.router_logits import router_logits
from mxmoe.kernels.triton_moe.tactics import Tactic
from mxmoe.kernels.triton_moe.tactics import choose
from mxmoe.reference.types import Routing


def moe(
    hidden_states: torch.Tensor,
    routing: Routing,
    layer: Layer,
    tactic: Tactic | None = None,
) -> torch.Tensor:
    """[t, h] -> [t, h]: the sum over this rank's experts, for a given routing."""
    hidden_states = check_hidden_states(hidden_states, layer)
    check_routing(routing, len(hidden_states), layer)
    tactic = tactic or choose(routing.ids.numel(), layer.experts)
    dispatched = dispatch(
        routing.ids,
        first_expert=layer.first_expert,
        experts=layer.experts,
        block_t=tactic.block_t,
    )
    return _experts(hidden_states, routing, dispatched, layer, tactic)


def moe_fused(
    hidden_states: torch.Tensor,
    router_weight: torch.Tensor,
    router_bias: torch.Tensor | None,
    top_k: int,
    layer: Layer,
    *,
    routed_scaling: float = 1.0,
    tactic: Tactic | None = None,
) -> torch.Tensor:
    """[t, h] -> [t, h]: routing included."""
    hidden_states = check_hidden_states(hidden_states, layer)
    check_router(router_weight, router_bias, top_k, layer)
    tactic = tactic or choose(len(hidden_states) * top_k, layer.experts)
    logits = router_logits(hidden_states, router_weight, router_bias)
    routing, dispatched = route_and_dispatch(
        logits,
        top_k,
        routed_scaling=routed_scaling,
        first_expert=layer.first_expert,
        experts=layer.experts,
        block_t=tactic.block_t,
    )
    return _experts(hidden_states, routing, dispatched, layer, tactic)


def trace(
    hidden_states: torch.Tensor,
    routing: Routing,
    layer: Layer,
    tactic: Tactic | None = None,
) -> dict[str, torch.Tensor]:
    """The stages of `moe`, rows keyed (t, k); those of slots not served are zero.

    gate_up float32 [t, k, 2 lanes], activation [t, k, lanes], down float32 [t, k, h],
    combine [t, h].
    """
    hidden_states = check_hidden_states(hidden_states, layer)
    check_routing(routing, len(hidden_states), layer)
    shape, slots = routing.ids.shape, routing.ids.numel()
    tactic = tactic or choose(slots, layer.experts)
    made = dispatch(
        routing.ids,
        first_expert=layer.first_expert,
        experts=layer.experts,
        block_t=tactic.block_t,
    )
    sums = torch.zeros(
        (slots, 2 * layer.lanes), dtype=torch.float32, device=hidden_states.device
    )
    activation = gate_up(
        hidden_states, layer, made, tactic, top_k=shape[1], traced=sums
    )
    served = torch.arange(slots, device=sums.device) < made.expert_start[-1]
    order = made.slots.long()
    by_slot = {"gate_up": sums, "activation": activation}
    for name, rows in by_slot.items():
        kept = torch.where(served[:, None], rows, 0)
        by_slot[name] = torch.zeros_like(rows).index_copy_(0, order, kept)
    parts = down(activation, layer, made, tactic)
    there = torch.zeros_like(served).index_copy_(0, order, served)
    by_slot["down"] = torch.where(there[:, None], parts.sum(dim=0), 0)
    combined = _combined(parts, hidden_states, routing, layer)
    stages = {name: rows.view(*shape, -1) for name, rows in by_slot.items()}
    return {**stages, "combine": combined}


def _experts(
    hidden_states: torch.Tensor,
    routing: Routing,
    dispatched: Dispatch,
    layer: Layer,
    tactic: Tactic,
) -> torch.Tensor:
    activation = gate_up(
        hidden_states, layer, dispatched, tactic, top_k=routing.ids.shape[1]
    )
    partial = down(activation, layer, dispatched, tactic)
    return _combined(partial, hidden_states, routing, layer)


def _combined(
    partial: torch.Tensor, hidden_states: torch.Tensor, routing: Routing, layer: Layer
) -> torch.Tensor:
    return combine(
        partial,
        routing.ids,
        routing.weights,
        first_expert=layer.first_expert,
        experts=layer.experts,
        out=hidden_states.new_empty(hidden_states.shape),
    )
