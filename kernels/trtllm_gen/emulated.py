"""The trtllm-gen MoE kernel, emulated: prepared bytes in, MoE output out.

Reads the bytes by the kernel's addressing and nothing else, so that it is wrong where
the kernel would be: `fc1_bias[n]` goes to accumulator row n, whatever row the weights
there came from; block scales come through the 128x4 tiles; lanes and columns beyond
the valid sizes are cut off by number. Contract, in order (FlashInfer fb28d724,
``tests/moe/trtllm_gen_fused_moe_utils.py``; openai/gpt-oss 7b583341, ``swiglu``):

    hidden states [t, h] padded with zeros to H1
    acc  = W1 x + b1                  physical rows, float32
    x0, x1 = up, gate rows of lane i
    act  = min(x1, limit) sigmoid(alpha min(x1, limit)) (clamp(x0, +-limit) + beta)
           rounded to bfloat16, 0 for lanes >= valid_intermediate
    y    = W2 act + b2                physical rows -> h, float32
    out  = sum over slots of weight * y, columns < valid_hidden

Nobody has compared it with the kernel on a B200.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mxmoe.kernels.trtllm_gen.addressing import EPILOGUE_TILE
from mxmoe.kernels.trtllm_gen.addressing import epilogue_rows_on
from mxmoe.kernels.trtllm_gen.decoded import DecodedExpert
from mxmoe.kernels.trtllm_gen.decoded import LoadedExperts
from mxmoe.kernels.trtllm_gen.decoded import decode_expert
from mxmoe.kernels.trtllm_gen.hidden_pad import pad_hidden_states
from mxmoe.reference.types import PreparedWeights
from mxmoe.reference.types import Routing


@dataclass(frozen=True, kw_only=True, eq=False)
class Stages:
    """What a pass writes down; None where nobody asked for it.

    gate_up [t, k, 2i'] with gate and up interleaved, activation [t, k, i'], down
    [t, k, h]; rows of slots that this rank does not serve are 0.
    """

    gate_up: torch.Tensor | None
    activation: torch.Tensor | None
    down: torch.Tensor


def forward(
    prepared: PreparedWeights | LoadedExperts,
    hidden_states: torch.Tensor,
    routing: Routing,
    *,
    epilogue_tile: int = EPILOGUE_TILE,
) -> torch.Tensor:
    """[t, h] -> this rank's partial sum [t, h] in the dtype of `hidden_states`.

    Decodes the experts that are visited, in each call; none if they are `load`-ed.
    """
    stages = _run(prepared, hidden_states, routing, epilogue_tile, traced=False)
    return _combine(prepared, stages.down, routing).to(hidden_states.dtype)


def trace(
    prepared: PreparedWeights | LoadedExperts,
    hidden_states: torch.Tensor,
    routing: Routing,
    *,
    epilogue_tile: int = EPILOGUE_TILE,
) -> dict[str, torch.Tensor]:
    """As `forward`, all stages; columns of the lanes that the rank owns."""
    stages = _run(prepared, hidden_states, routing, epilogue_tile, traced=True)
    assert stages.gate_up is not None
    assert stages.activation is not None
    combine = _combine(prepared, stages.down, routing)
    return {
        "gate_up": stages.gate_up,
        "activation": stages.activation,
        "down": stages.down,
        "combine": combine.to(hidden_states.dtype),
    }


def forward_fused(
    prepared: PreparedWeights | LoadedExperts,
    hidden_states: torch.Tensor,
    router_weight: torch.Tensor,
    router_bias: torch.Tensor | None,
    top_k: int,
) -> torch.Tensor:
    """As `forward`, with the routing inside: logits in float32, then `route`."""
    logits = hidden_states.float() @ router_weight.float().T
    if router_bias is not None:
        logits = logits + router_bias.float()
    ids, weights = route(logits, top_k)
    scaling = _weights_of(prepared).config.routed_scaling
    return forward(prepared, hidden_states, Routing(ids, weights * scaling))


def route(logits: torch.Tensor, top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """int32 ids and float32 weights [t, k]: top-k, then softmax over the chosen.

    "Renormalize" of the trtllm-gen routing kernel; the lowest expert wins a tie.
    """
    # A stable sort keeps equal logits in the order of their experts.
    ranked = logits.float().sort(dim=1, descending=True, stable=True)
    weights = torch.softmax(ranked.values[:, :top_k], dim=1)
    return ranked.indices[:, :top_k].int(), weights


def _weights_of(prepared: PreparedWeights | LoadedExperts) -> PreparedWeights:
    return prepared.prepared if isinstance(prepared, LoadedExperts) else prepared


def _expert(prepared: PreparedWeights | LoadedExperts, local: int) -> DecodedExpert:
    if isinstance(prepared, LoadedExperts):
        return prepared.experts[local]
    return decode_expert(prepared, local)


def _run(
    prepared: PreparedWeights | LoadedExperts,
    hidden_states: torch.Tensor,
    routing: Routing,
    epilogue_tile: int,
    *,
    traced: bool,
) -> Stages:
    weights = _weights_of(prepared)
    here = weights.shard.expert_range(weights.config)
    lanes, h = weights.valid_intermediate, weights.valid_hidden
    (t, k), new = routing.ids.shape, hidden_states.new_zeros
    gate_up = new((t, k, 2 * lanes), dtype=torch.float32) if traced else None
    activation = new((t, k, lanes), dtype=torch.float32) if traced else None
    down = new((t, k, h), dtype=torch.float32)
    for e in routing.ids.unique().tolist():
        if e not in here:
            continue
        expert = _expert(prepared, e - here.start)
        token, slot = torch.where(routing.ids == e)
        p, h1 = expert.w2.shape[1], expert.w1.shape[1]
        x = pad_hidden_states(hidden_states[token], h1).float()
        gate_rows, up_rows, down_rows = epilogue_rows_on(
            lanes, p, h, expert.w2.shape[0], epilogue_tile, x.device
        )
        acc = _gemm(x, expert.w1, expert.b1)
        gate, up = acc[:, gate_rows], acc[:, up_rows]
        act = x.new_zeros(len(token), p)
        act[:, :lanes] = _swiglu(gate, up, expert).bfloat16().float()
        down[token, slot] = _gemm(act, expert.w2, expert.b2)[:, down_rows]
        if gate_up is not None and activation is not None:
            gate_up[token, slot] = torch.stack((gate, up), dim=-1).flatten(-2)
            activation[token, slot] = act[:, :lanes]
    return Stages(gate_up=gate_up, activation=activation, down=down)


def _gemm(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    acc = x @ weight.T
    return acc if bias is None else acc + bias


def _swiglu(
    gate: torch.Tensor, up: torch.Tensor, expert: DecodedExpert
) -> torch.Tensor:
    gate = torch.minimum(gate, expert.limit)
    up = torch.clamp(up, -expert.limit, expert.limit)
    return gate * torch.sigmoid(expert.alpha * gate) * (up + expert.beta)


def _combine(
    prepared: PreparedWeights | LoadedExperts, down: torch.Tensor, routing: Routing
) -> torch.Tensor:
    weights = _weights_of(prepared)
    here = weights.shard.expert_range(weights.config)
    served = (routing.ids >= here.start) & (routing.ids < here.stop)
    mix = torch.where(served, routing.weights.float(), 0)
    return torch.einsum("tk,tkh->th", mix, down)
