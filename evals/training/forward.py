"""The model's forward pass, written for training: two GEMMs a layer for all experts.

Every expert computes every token, and the router's weight of an expert that a token
does not visit is zero: twice the arithmetic of top-4 of 8, but plain GEMMs without a
sort, a gather or an atomic addition. Equal to transformers' forward up to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812

from mxmoe.evals.training.fake_quantise import fake_quantise
from mxmoe.evals.training.parameters import Parameters
from mxmoe.evals.training.parameters import is_expert_weight
from mxmoe.evals.training.rope import rotate
from mxmoe.evals.training.rope import rotations
from mxmoe.evals.training.shape import ModelShape


@dataclass
class Cache:
    """Keys and values [layer, b, kv_heads, longest, head_dim] of the first `length`."""

    keys: torch.Tensor
    values: torch.Tensor
    length: int = 0

    def extend(
        self, layer: int, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write behind `length`, which the caller moves; return all of the layer's."""
        end = self.length + keys.shape[2]
        self.keys[layer, :, :, self.length : end] = keys
        self.values[layer, :, :, self.length : end] = values
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]


@dataclass(frozen=True)
class Output:
    """logits [b, s, v]; `balance` is 1 where all experts are used alike, else more."""

    logits: torch.Tensor
    balance: torch.Tensor


def as_mxfp4(parameters: Parameters) -> Parameters:
    """The parameters with expert weights as MXFP4 holds them, straight through."""
    return {
        name: fake_quantise(value) if is_expert_weight(name) else value
        for name, value in parameters.items()
    }


def forward(
    parameters: Parameters,
    shape: ModelShape,
    ids: torch.Tensor,
    positions: torch.Tensor,
    visible: torch.Tensor,
    cache: Cache | None = None,
) -> Output:
    """Run the model on `as_mxfp4` parameters.

    ids, positions : integers [b, s]. visible : bool [b, s, keys], causal, without the
    window: the window counts back from the last key.
    """
    x = F.embedding(ids, parameters["model.embed_tokens.weight"])
    cos_sin = rotations(positions, shape.head_dim)
    keys = visible.shape[2]
    at = torch.arange(keys, device=ids.device)
    back = at[keys - ids.shape[1] :, None] - at
    balance = x.new_zeros(())
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}"
        window = shape.layer_window(layer)
        seen = visible if window is None else visible & (back < window)
        normed = _norm(x, parameters[f"{prefix}.input_layernorm.weight"], shape)
        x = x + _attention(
            parameters, f"{prefix}.self_attn", shape, normed, cos_sin, seen, cache
        )
        weight = parameters[f"{prefix}.post_attention_layernorm.weight"]
        update, uneven = moe_layer(
            parameters, f"{prefix}.mlp", shape, _norm(x, weight, shape)
        )
        x = x + update
        balance = balance + uneven / shape.layers
    x = _norm(x, parameters["model.norm.weight"], shape)
    return Output(F.linear(x, parameters["lm_head.weight"]), balance)


def _norm(x: torch.Tensor, weight: torch.Tensor, shape: ModelShape) -> torch.Tensor:
    high = x.float()
    scale = torch.rsqrt(high.square().mean(-1, keepdim=True) + shape.norm_eps)
    return (weight * (high * scale)).to(x.dtype)


def _attention(
    parameters: Parameters,
    prefix: str,
    shape: ModelShape,
    x: torch.Tensor,
    cos_sin: tuple[torch.Tensor, torch.Tensor],
    visible: torch.Tensor,
    cache: Cache | None,
) -> torch.Tensor:
    b, s, _ = x.shape

    def heads(name: str) -> torch.Tensor:
        weight = parameters[f"{prefix}.{name}_proj.weight"]
        wide = F.linear(x, weight, parameters[f"{prefix}.{name}_proj.bias"])
        return wide.view(b, s, -1, shape.head_dim).transpose(1, 2)

    query, key = rotate(heads("q"), *cos_sin), rotate(heads("k"), *cos_sin)
    value = heads("v")
    if cache is not None:
        layer = int(prefix.split(".")[2])
        key, value = cache.extend(layer, key, value)
    group = shape.heads // shape.kv_heads
    query = query.unflatten(1, (shape.kv_heads, group)).flatten(2, 3)
    scores = query @ key.transpose(-1, -2) * shape.head_dim**-0.5
    scores = scores.unflatten(2, (group, s)).flatten(1, 2)
    scores = scores.masked_fill(~visible[:, None], float("-inf"))
    sinks = parameters[f"{prefix}.sinks"].to(scores.dtype)
    sinks = sinks[:, None, None].expand(b, -1, s, 1)
    weights = torch.cat([scores, sinks], dim=-1).softmax(dim=-1)[..., :-1]
    weights = weights.to(value.dtype)
    weights = weights.unflatten(1, (shape.kv_heads, group)).flatten(2, 3)
    mixed = (weights @ value).unflatten(2, (group, s)).flatten(1, 2)
    mixed = mixed.transpose(1, 2).flatten(2)
    weight = parameters[f"{prefix}.o_proj.weight"]
    return F.linear(mixed, weight, parameters[f"{prefix}.o_proj.bias"])


def moe_layer(
    parameters: Parameters, prefix: str, shape: ModelShape, x: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """[b, s, h] -> the layer's output, and how unevenly its experts are used."""
    e, i = shape.experts, shape.intermediate
    logits = F.linear(
        x, parameters[f"{prefix}.router.weight"], parameters[f"{prefix}.router.bias"]
    ).float()
    top, chosen = logits.topk(shape.top_k, dim=-1)
    routed = torch.zeros_like(logits).scatter(-1, chosen, top.softmax(dim=-1))
    experts = f"{prefix}.experts"
    gate_up = F.linear(
        x,
        parameters[f"{experts}.gate_up_proj"].flatten(0, 1),
        parameters[f"{experts}.gate_up_proj_bias"].flatten(),
    ).unflatten(-1, (e, i, 2))
    gate = gate_up[..., 0].clamp(max=shape.limit)
    up = gate_up[..., 1].clamp(-shape.limit, shape.limit)
    act = (up + 1) * (gate * torch.sigmoid(gate * shape.alpha))
    act = (act * routed[..., None].to(act.dtype)).flatten(-2)
    down = parameters[f"{experts}.down_proj"].transpose(0, 1).flatten(1)
    out = F.linear(act, down) + F.linear(
        routed.to(act.dtype), parameters[f"{experts}.down_proj_bias"].T
    )
    share = (routed > 0).to(logits.dtype).flatten(0, -2).mean(0) / shape.top_k
    likely = logits.softmax(dim=-1).flatten(0, -2).mean(0)
    return out, e * (share.detach() * likely).sum()
