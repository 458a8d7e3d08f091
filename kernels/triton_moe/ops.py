"""The layer as operators of torch, for torch.compile, export and CUDA graphs.

``torch.ops.mxmoe.triton_moe``, ``triton_moe_fused``, ``triton_moe_route``. They take
the prepared tensors one by one, because an operator takes no objects; `arguments`
lists those of a prepared layer.
"""

from __future__ import annotations

from typing import Any

import torch

from mxmoe.kernels.triton_moe.layer import Layer
from mxmoe.kernels.triton_moe.layer import Weights
from mxmoe.kernels.triton_moe.moe import moe
from mxmoe.kernels.triton_moe.moe import moe_fused
from mxmoe.kernels.triton_moe.route import route
from mxmoe.kernels.triton_moe.tactics import parse_tactic
from mxmoe.reference.types import Routing


def arguments(layer: Layer) -> dict[str, Any]:
    """The arguments that stand for `layer`, by name."""
    return {
        "gate_up_words": layer.gate_up.words,
        "gate_up_scales": layer.gate_up.scales,
        "gate_up_bias": layer.gate_up.bias,
        "down_words": layer.down.words,
        "down_scales": layer.down.scales,
        "down_bias": layer.down.bias,
        "hidden": layer.hidden,
        "lanes": layer.lanes,
        "first_expert": layer.first_expert,
        "alpha": layer.alpha,
        "beta": layer.beta,
        "limit": layer.limit,
        "wide_scales": layer.wide_scales,
    }


@torch.library.custom_op("mxmoe::triton_moe", mutates_args=())
def triton_moe(
    hidden_states: torch.Tensor,
    ids: torch.Tensor,
    weights: torch.Tensor,
    gate_up_words: torch.Tensor,
    gate_up_scales: torch.Tensor,
    gate_up_bias: torch.Tensor | None,
    down_words: torch.Tensor,
    down_scales: torch.Tensor,
    down_bias: torch.Tensor | None,
    hidden: int,
    lanes: int,
    first_expert: int,
    alpha: float,
    beta: float,
    limit: float,
    wide_scales: bool,
    tactic: str = "",
) -> torch.Tensor:
    """[t, h], ids [t, k], weights [t, k] -> [t, h]. tactic: a label, or the choice."""
    layer = Layer(
        gate_up=Weights(words=gate_up_words, scales=gate_up_scales, bias=gate_up_bias),
        down=Weights(words=down_words, scales=down_scales, bias=down_bias),
        hidden=hidden,
        lanes=lanes,
        first_expert=first_expert,
        alpha=alpha,
        beta=beta,
        limit=limit,
        wide_scales=wide_scales,
    )
    forced = parse_tactic(tactic) if tactic else None
    return moe(hidden_states, Routing(ids, weights), layer, forced)


@torch.library.custom_op("mxmoe::triton_moe_fused", mutates_args=())
def triton_moe_fused(
    hidden_states: torch.Tensor,
    router_weight: torch.Tensor,
    router_bias: torch.Tensor | None,
    top_k: int,
    routed_scaling: float,
    gate_up_words: torch.Tensor,
    gate_up_scales: torch.Tensor,
    gate_up_bias: torch.Tensor | None,
    down_words: torch.Tensor,
    down_scales: torch.Tensor,
    down_bias: torch.Tensor | None,
    hidden: int,
    lanes: int,
    first_expert: int,
    alpha: float,
    beta: float,
    limit: float,
    wide_scales: bool,
    tactic: str = "",
) -> torch.Tensor:
    """[t, h], router [e, h] and [e] -> [t, h]: routing included."""
    layer = Layer(
        gate_up=Weights(words=gate_up_words, scales=gate_up_scales, bias=gate_up_bias),
        down=Weights(words=down_words, scales=down_scales, bias=down_bias),
        hidden=hidden,
        lanes=lanes,
        first_expert=first_expert,
        alpha=alpha,
        beta=beta,
        limit=limit,
        wide_scales=wide_scales,
    )
    return moe_fused(
        hidden_states,
        router_weight,
        router_bias,
        top_k,
        layer,
        routed_scaling=routed_scaling,
        tactic=parse_tactic(tactic) if tactic else None,
    )


@torch.library.custom_op("mxmoe::triton_moe_route", mutates_args=())
def triton_moe_route(
    logits: torch.Tensor, top_k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """logits [t, e] -> ids int32 [t, k], weights float32 [t, k]."""
    routing = route(logits, top_k)
    return routing.ids, routing.weights


@triton_moe.register_fake
@triton_moe_fused.register_fake
def _output(hidden_states: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return hidden_states.new_empty(hidden_states.shape)


@triton_moe_route.register_fake
def _routing(logits: torch.Tensor, top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (logits.shape[0], top_k)
    ids = logits.new_empty(shape, dtype=torch.int32)
    return ids, logits.new_empty(shape, dtype=torch.float32)
