"""The two published spellings of a gpt-oss layer's tensor names."""

from __future__ import annotations

from collections.abc import Mapping

# Hugging Face: transformers, models/gpt_oss.
HUGGING_FACE: Mapping[str, str] = {
    "gate_up_blocks": "model.layers.{layer}.mlp.experts.gate_up_proj_blocks",
    "gate_up_scales": "model.layers.{layer}.mlp.experts.gate_up_proj_scales",
    "gate_up_bias": "model.layers.{layer}.mlp.experts.gate_up_proj_bias",
    "down_blocks": "model.layers.{layer}.mlp.experts.down_proj_blocks",
    "down_scales": "model.layers.{layer}.mlp.experts.down_proj_scales",
    "down_bias": "model.layers.{layer}.mlp.experts.down_proj_bias",
    "router_weight": "model.layers.{layer}.mlp.router.weight",
    "router_bias": "model.layers.{layer}.mlp.router.bias",
}

# OpenAI's original files: openai/gpt-oss, gpt_oss/torch/weights.py.
OPENAI: Mapping[str, str] = {
    "gate_up_blocks": "block.{layer}.mlp.mlp1_weight.blocks",
    "gate_up_scales": "block.{layer}.mlp.mlp1_weight.scales",
    "gate_up_bias": "block.{layer}.mlp.mlp1_bias",
    "down_blocks": "block.{layer}.mlp.mlp2_weight.blocks",
    "down_scales": "block.{layer}.mlp.mlp2_weight.scales",
    "down_bias": "block.{layer}.mlp.mlp2_bias",
    "router_weight": "block.{layer}.mlp.gate.weight",
    "router_bias": "block.{layer}.mlp.gate.bias",
}

SPELLINGS = (HUGGING_FACE, OPENAI)
