"""What a project compares with: its own reference, in its own precision."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mxmoe.evals.peer_rules.layer import Layer
from mxmoe.reference.activation import activate
from mxmoe.reference.formats import decode


@dataclass(frozen=True, kw_only=True)
class Precision:
    """Where a project's reference rounds.

    compute : every step is done, and its result kept, in this. intermediate, weights,
    output : the activation, the routing weights and the result pass through this.
    unquantised : the reference takes the weights before MXFP4, where a recipe has them.
    """

    compute: torch.dtype = torch.float32
    intermediate: torch.dtype = torch.float32
    weights: torch.dtype = torch.float32
    output: torch.dtype = torch.float32
    unquantised: bool = False


def expected(layer: Layer, precision: Precision, dtype: torch.dtype) -> torch.Tensor:
    """[t, h] in float32, for hidden states that came in `dtype`."""
    data, high = layer.data, precision.compute
    x = layer.hidden_states(dtype).to(high)
    mix = data.routing.weights.to(precision.weights).to(high)
    out = torch.zeros(x.shape, dtype=torch.float32)
    for e in data.routing.ids[data.routing.ids >= 0].unique().tolist():
        token, slot = torch.where(data.routing.ids == e)
        w1, w2 = _matrices(layer, e, precision)
        gate_up = x[token] @ w1.T
        if data.weights.gate_up_bias is not None:
            gate_up = gate_up + data.weights.gate_up_bias[e].to(high)
        act = activate(gate_up, data.config.activation)
        down = act.to(precision.intermediate).to(high) @ w2.T
        if data.weights.down_bias is not None:
            down = down + data.weights.down_bias[e].to(high)
        # Projects add up the slots in float32, or in one einsum that does.
        out.index_add_(0, token, mix[token, slot, None].float() * down.float())
    return out.to(high).to(precision.output).float()


def _matrices(
    layer: Layer, e: int, precision: Precision
) -> tuple[torch.Tensor, torch.Tensor]:
    if precision.unquantised and layer.unquantised is not None:
        w1, w2 = layer.unquantised
        return w1[e].to(precision.compute), w2[e].to(precision.compute)
    w = layer.data.weights
    return (
        decode(w.gate_up_blocks[e], w.gate_up_scales[e], precision.compute),
        decode(w.down_blocks[e], w.down_scales[e], precision.compute),
    )
