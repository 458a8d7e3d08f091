"""The layer itself: what every kernel must compute.

Letters: t token, k slot, e expert, h hidden, i intermediate. For each token t
and slot k with expert e = ids[t, k] that this rank owns:

    gate_up = W1[e] x[t] + b1[e]
    act     = activate(gate_up)
    down    = W2[e] act + b2[e] / tp
    out[t]  = sum_k weights[t, k] * down[t, k]
"""

from __future__ import annotations

import torch

from mxmoe.reference.activation import activate
from mxmoe.reference.formats import decode
from mxmoe.reference.sharding import shard_weights
from mxmoe.reference.types import BLOCK
from mxmoe.reference.types import FLOAT64
from mxmoe.reference.types import WHOLE
from mxmoe.reference.types import Arithmetic
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Routing
from mxmoe.reference.types import Shard
from mxmoe.reference.types import Trace


def moe(
    weights: ExpertWeights,
    config: MoEConfig,
    hidden_states: torch.Tensor,
    routing: Routing,
    *,
    shard: Shard = WHOLE,
    arithmetic: Arithmetic = FLOAT64,
) -> Trace:
    """Run one rank's part of the layer; ``["combine"]`` is its partial sum.

    weights : the whole layer in checkpoint order. hidden_states : [t, h].
    arithmetic : `FLOAT64` is the truth; a named class rounds where it says.
    """
    part = shard_weights(weights, config, shard)
    return moe_of_rank(
        part, config, hidden_states, routing, shard=shard, arithmetic=arithmetic
    )


def moe_of_rank(
    part: ExpertWeights,
    config: MoEConfig,
    hidden_states: torch.Tensor,
    routing: Routing,
    *,
    shard: Shard,
    arithmetic: Arithmetic = FLOAT64,
) -> Trace:
    """As `moe`, from the weights that the rank owns (see `shard_weights`).

    Experts are decoded one at a time, so memory stays at one expert.
    """
    high = arithmetic.accumulate
    owned_experts = shard.expert_range(config)
    x = hidden_states.to(high)
    t, k = routing.ids.shape
    i = part.down_blocks.shape[2] * BLOCK
    gate_up = x.new_zeros(t, k, 2 * i)
    act = x.new_zeros(t, k, i)
    down = x.new_zeros(t, k, config.hidden)
    owned = torch.zeros_like(routing.ids, dtype=torch.bool)
    for local, e in enumerate(owned_experts):
        at = routing.ids == e
        if not at.any():
            continue
        w1 = decode(part.gate_up_blocks[local], part.gate_up_scales[local], high)
        w2 = decode(part.down_blocks[local], part.down_scales[local], high)
        z = torch.einsum("th,ih->ti", x[at.any(dim=1)], w1)
        if part.gate_up_bias is not None:
            z = z + part.gate_up_bias[local].to(high)
        a = activate(z, config.activation).to(arithmetic.intermediate).to(high)
        y = torch.einsum("ti,hi->th", a, w2)
        if part.down_bias is not None:
            y = y + part.down_bias[local].to(high) / shard.tp_size
        gate_up[at], act[at], down[at] = z, a, y.to(arithmetic.slot).to(high)
        owned |= at
    # A slot that this rank does not serve adds nothing, whatever its weight holds.
    slot_weights = torch.where(owned, routing.weights.to(high), 0)
    combine = torch.einsum("tk,tkh->th", slot_weights, down).to(arithmetic.output)
    return Trace(
        {"gate_up": gate_up, "activation": act, "down": down, "combine": combine}
    )
