"""The model's parameters by name, and their values before training."""

from __future__ import annotations

import math

import torch

from mxmoe.evals.training.shape import ModelShape

Parameters = dict[str, torch.Tensor]
# Spread of all expert biases: as large as what the GEMMs give, so that they matter.
_BIAS = 0.5
# One gate and one up row in eight start around the clamp, so that it matters.
_CLAMPED_EVERY, _CLAMPED_SPREAD = 8, 1.5
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

    bias = normal(e, i, 2, std=_BIAS)
    signs = torch.randint(0, 2, (e, i), generator=source) * 2.0 - 1
    wide = normal(e, i, 2, std=_CLAMPED_SPREAD)
    # Different rows for gate and up: a row with both at the limit would be constant.
    gates, ups = slice(0, None, _CLAMPED_EVERY), slice(4, None, _CLAMPED_EVERY)
    bias[:, gates, 0] = shape.limit + wide[:, gates, 0]
    bias[:, ups, 1] = (signs * shape.limit + wide[:, :, 1])[:, ups]
    # Rows at the limit give outputs several times as large as the others.
    down_std = branch / math.sqrt(i) / 3
    experts = f"{prefix}.experts"
    return {
        f"{prefix}.router.weight": normal(e, h, std=1 / math.sqrt(h)),
        f"{prefix}.router.bias": torch.zeros(e),
        f"{experts}.gate_up_proj": normal(
            e, 2 * i, h, std=_GATE_UP_GAIN / math.sqrt(h)
        ),
        f"{experts}.gate_up_proj_bias": bias.flatten(1),
        f"{experts}.down_proj": normal(e, h, i, std=down_std),
        f"{experts}.down_proj_bias": normal(e, h, std=_BIAS * branch),
    }


def is_expert_weight(name: str) -> bool:
    """Whether the parameter is stored as MXFP4."""
    return name.endswith((".gate_up_proj", ".down_proj"))
