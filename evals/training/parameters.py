"""The model's parameters by name, and their values before training."""

from __future__ import annotations

import math

import torch

from mxmoe.evals.training.shape import ModelShape

Parameters = dict[str, torch.Tensor]
# Biases are drawn so large that the model cannot do without them: a model that began
# with down biases of 0.2, and with few rows near the clamp, answered as well without
# either. The stream that the down biases are added to grows to 3 after the first
# layer and to 9 after the last.
_ROUTER_BIAS = 1.0
_FC1_BIAS = 0.5
_FC2_BIAS = 8.0
# One gate and one up row in four start beyond the clamp, by this spread.
_CLAMPED_EVERY, _BEYOND = 4, 8.0
_GATE_UP_GAIN = 1.5


def initial_parameters(shape: ModelShape, seed: int) -> Parameters:
    """float32 parameters, drawn on the CPU: the same on every machine.

    Names as in Hugging Face's checkpoint. Expert weights in checkpoint order,
    gate_up_proj [e, 2i, h] with gate and up rows interleaved and down_proj [e, h, i].
    """
    source = torch.Generator().manual_seed(seed)

    def normal(*size: int, std: float) -> torch.Tensor:
        return torch.randn(size, generator=source) * std

    h, wide = shape.hidden, shape.heads * shape.head_dim
    found: Parameters = {
        "model.embed_tokens.weight": normal(shape.vocabulary, h, std=1)
    }
    branch = 1 / math.sqrt(2 * shape.layers)
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}"
        found[f"{prefix}.input_layernorm.weight"] = torch.ones(h)
        found[f"{prefix}.post_attention_layernorm.weight"] = torch.ones(h)
        attention = f"{prefix}.self_attn"
        for name, heads in (
            ("q", shape.heads),
            ("k", shape.kv_heads),
            ("v", shape.kv_heads),
        ):
            width = heads * shape.head_dim
            found[f"{attention}.{name}_proj.weight"] = normal(
                width, h, std=1 / math.sqrt(h)
            )
            found[f"{attention}.{name}_proj.bias"] = torch.zeros(width)
        found[f"{attention}.o_proj.weight"] = normal(
            h, wide, std=branch / math.sqrt(wide)
        )
        found[f"{attention}.o_proj.bias"] = torch.zeros(h)
        found[f"{attention}.sinks"] = torch.zeros(shape.heads)
        found |= _mlp(f"{prefix}.mlp", shape, branch, source)
    found["model.norm.weight"] = torch.ones(h)
    found["lm_head.weight"] = normal(shape.vocabulary, h, std=0.5 / math.sqrt(h))
    return found


def _mlp(
    prefix: str, shape: ModelShape, branch: float, source: torch.Generator
) -> Parameters:
    e, h, i = shape.experts, shape.hidden, shape.intermediate

    def normal(*size: int, std: float) -> torch.Tensor:
        return torch.randn(size, generator=source) * std

    # Rows at the limit give outputs several times as large as the others.
    down_std = branch / math.sqrt(i) / 3
    experts = f"{prefix}.experts"
    return {
        f"{prefix}.router.weight": normal(e, h, std=1 / math.sqrt(h)),
        f"{experts}.gate_up_proj": normal(
            e, 2 * i, h, std=_GATE_UP_GAIN / math.sqrt(h)
        ),
        f"{experts}.down_proj": normal(e, h, i, std=down_std),
    } | _biases(prefix, shape, source)


def _biases(prefix: str, shape: ModelShape, source: torch.Generator) -> Parameters:
    """Biases of a layer's router and experts, large enough to matter."""
    e, h, i = shape.experts, shape.hidden, shape.intermediate
    bias = torch.randn(e, i, 2, generator=source) * _FC1_BIAS
    signs = torch.randint(0, 2, (e, i), generator=source) * 2.0 - 1
    beyond = shape.limit + (torch.randn(e, i, 2, generator=source) * _BEYOND).abs()
    # Different rows for gate and up: a row with both at the limit would be constant.
    gates, ups = slice(0, None, _CLAMPED_EVERY), slice(2, None, _CLAMPED_EVERY)
    bias[:, gates, 0] = beyond[:, gates, 0]
    bias[:, ups, 1] = (signs * beyond[:, :, 1])[:, ups]
    experts = f"{prefix}.experts"
    return {
        f"{prefix}.router.bias": torch.randn(e, generator=source) * _ROUTER_BIAS,
        f"{experts}.gate_up_proj_bias": bias.flatten(1),
        f"{experts}.down_proj_bias": torch.randn(e, h, generator=source) * _FC2_BIAS,
    }


def with_fresh_biases(
    parameters: Parameters, shape: ModelShape, seed: int
) -> Parameters:
    """A trained model's parameters, its MoE layers' biases as before training."""
    source = torch.Generator().manual_seed(seed)
    found = dict(parameters)
    for layer in range(shape.layers):
        found |= _biases(f"model.layers.{layer}.mlp", shape, source)
    return {name: found[name] for name in initial_parameters(shape, seed)}


def is_expert_weight(name: str) -> bool:
    """Whether the parameter is stored as MXFP4."""
    return name.endswith((".gate_up_proj", ".down_proj"))
