"""Routing: top-k on the logits, then softmax in float32 over the k chosen."""

from __future__ import annotations

import torch

from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Routing


def router_logits(
    hidden_states: torch.Tensor,
    router_weight: torch.Tensor,
    router_bias: torch.Tensor | None,
    dtype: torch.dtype = torch.float64,
) -> torch.Tensor:
    """logits[t, e] = sum_h x[t, h] * W[e, h] + b[e], computed in `dtype`."""
    x, w = hidden_states.to(dtype), router_weight.to(dtype)
    logits = torch.einsum("th,eh->te", x, w)
    return logits if router_bias is None else logits + router_bias.to(dtype)


def route(
    logits: torch.Tensor,
    top_k: int,
    *,
    routed_scaling: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> Routing:
    """Choose `top_k` experts for each token and weigh them.

    logits : floating [t, e], compared at full precision. The lowest expert id
    wins a tie (trtllm-gen's rule; torch.topk promises none). +0 ties with -0 here,
    while trtllm-gen's bitwise key ranks it above. NaN ranks above every number, so
    a row of NaN still gives distinct ids in range, and NaN weights. Weights are the
    softmax of the k logits in float32, times `routed_scaling`, in `dtype`.
    """
    ranked = torch.sort(logits, dim=-1, descending=True, stable=True)
    chosen, ids = ranked.values[:, :top_k], ranked.indices[:, :top_k]
    weights = torch.softmax(chosen.float(), dim=-1) * routed_scaling
    return Routing(ids.to(torch.int32).contiguous(), weights.to(dtype))


def route_layer(
    hidden_states: torch.Tensor,
    router_weight: torch.Tensor,
    router_bias: torch.Tensor | None,
    config: MoEConfig,
    dtype: torch.dtype = torch.float32,
) -> Routing:
    """Logits in float64, then `route`."""
    return route(
        router_logits(hidden_states, router_weight, router_bias),
        config.top_k,
        routed_scaling=config.routed_scaling,
        dtype=dtype,
    )
