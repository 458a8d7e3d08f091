"""The bound of each stage alone: from the candidate's own stage before it.

`propagated` lets a stage inherit the errors of all stages before it. Here what a
candidate exposes is taken as given, and the next stage is judged from there: its truth
is float64 on *that* input, and it may be off by what this stage alone rounds. So a
fault is found in the stage that makes it, under a bound that is tighter, and nothing
behind it is blamed. What is not exposed is computed, and its errors are inherited as
ever.

An exposed stage may be shown before its rounding to the intermediate or slot dtype;
where its values are none of that dtype, the rounding is the next stage's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from mxmoe.conformance.bounds.propagated import Error
from mxmoe.conformance.bounds.propagated import Judged
from mxmoe.conformance.bounds.propagated import activation_error
from mxmoe.conformance.bounds.propagated import combine
from mxmoe.conformance.bounds.propagated import down_error
from mxmoe.conformance.bounds.propagated import gate_up_error
from mxmoe.conformance.bounds.propagated import half_ulp
from mxmoe.conformance.bounds.propagated import rounded_activation
from mxmoe.conformance.bounds.propagated import second_gemm_error
from mxmoe.reference.activation import activate
from mxmoe.reference.formats import decode
from mxmoe.reference.types import Arithmetic
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Routing
from mxmoe.reference.types import Shard
from mxmoe.reference.types import Trace


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One rank's part of a layer, and what goes into it.

    part : see `shard_weights`. hidden_states : [t, h]. arithmetic : the class declared.
    """

    part: ExpertWeights
    config: MoEConfig
    hidden_states: torch.Tensor
    routing: Routing
    shard: Shard
    arithmetic: Arithmetic


def judge_own(layer: Layer, exposed: Mapping[str, torch.Tensor]) -> Judged:
    """Truth and bound of every stage, each from the last exposed stage before it.

    exposed : of ``gate_up`` [t, k, 2i], ``activation`` [t, k, i] and ``down``
    [t, k, h] those that the candidate shows. Truth is not finite where the exposed
    input is not.
    """
    t, k = layer.routing.ids.shape
    i = layer.part.down_scales.shape[2] * 32
    wide = {"gate_up": 2 * i, "activation": i, "down": layer.config.hidden}
    truth, allowed = (
        {s: torch.zeros(t, k, n, dtype=torch.float64) for s, n in wide.items()}
        for _ in range(2)
    )
    shape = (t, k, layer.config.hidden)
    down = torch.zeros(shape, dtype=torch.float64)
    errors = Error(torch.zeros_like(down), torch.zeros_like(down))
    for local, expert in enumerate(layer.shard.expert_range(layer.config)):
        at = layer.routing.ids == expert
        if not at.any():
            continue
        rows = {s: x[at].double() for s, x in exposed.items() if s in wide}
        found = _expert(layer, local, layer.hidden_states[at.any(dim=1)], rows)
        for stage in wide:
            truth[stage][at] = found.truth[stage]
            allowed[stage][at] = found.allowed[stage]
        down[at] = rows.get("down", found.truth["down"])
        errors.sigma[at], errors.eta[at] = found.down_error.sigma, found.down_error.eta
    slot = half_ulp(truth["down"], layer.arithmetic.slot)
    if "down" in exposed:
        slot = _rounding(down, layer.arithmetic.slot)
    owned = torch.isin(
        layer.routing.ids, torch.tensor(layer.shard.expert_range(layer.config))
    )
    p = torch.where(owned, layer.routing.weights.double(), 0)
    truth["combine"] = torch.einsum("tk,tkh->th", p, down)
    allowed["combine"] = combine(
        Trace({**truth, "down": down}),
        layer.routing,
        errors,
        slot,
        layer.arithmetic,
        None,
    )
    return Judged(Trace(truth), allowed)


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """The rows of one expert; down_error : what `combine` inherits."""

    truth: Mapping[str, torch.Tensor]
    allowed: Mapping[str, torch.Tensor]
    down_error: Error


def _expert(
    layer: Layer, local: int, x: torch.Tensor, exposed: Mapping[str, torch.Tensor]
) -> _Rows:
    part, config, arithmetic = layer.part, layer.config, layer.arithmetic
    x = x.double()
    w1 = decode(part.gate_up_blocks[local], part.gate_up_scales[local])
    w2 = decode(part.down_blocks[local], part.down_scales[local])
    truth, allowed = {}, {}
    z = torch.einsum("th,ih->ti", x, w1)
    if part.gate_up_bias is not None:
        z = z + part.gate_up_bias[local].double()
    z_error = gate_up_error(x, w1, z, arithmetic)
    truth["gate_up"], allowed["gate_up"] = z, z_error.allowed()
    if "gate_up" in exposed:
        z, z_error = exposed["gate_up"], _no_error(z)
    a = activate(z, config.activation)
    exact = activation_error(z, a, z_error, config.activation)
    a_error, allowed["activation"] = rounded_activation(z, a, exact, config, arithmetic)
    truth["activation"] = a
    if "activation" in exposed:
        a = exposed["activation"]
        late = _rounding(a, arithmetic.intermediate) / math.sqrt(3)
        a_error = Error(late, torch.zeros_like(a))
    y = torch.einsum("ti,hi->th", a, w2)
    if part.down_bias is not None:
        y = y + part.down_bias[local].double() / layer.shard.tp_size
    y_error = down_error(w2, a_error, second_gemm_error(a, w2, y, arithmetic))
    truth["down"] = y
    allowed["down"] = y_error.allowed() + half_ulp(y, arithmetic.slot)
    if "down" in exposed:
        y_error = _no_error(y)
    return _Rows(truth=truth, allowed=allowed, down_error=y_error)


def _no_error(like: torch.Tensor) -> Error:
    return Error(torch.zeros_like(like), torch.zeros_like(like))


def _rounding(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What rounding to `dtype` may still do to values: nothing to its own."""
    return torch.where(
        values.to(dtype).to(values) == values, 0, half_ulp(values, dtype)
    )
