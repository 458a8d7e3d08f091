"""transformers' own experts, fed by transformers' own MXFP4 conversion.

Real third-party code under test: this file only moves tensors into place.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

import torch

from mxmoe.reference.types import SWIGLU_OAI
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import PreparedWeights
from mxmoe.reference.types import Routing
from mxmoe.reference.types import Shard


def _shapes(config: MoEConfig) -> bool | str:
    if config.activation.name != SWIGLU_OAI.name or config.activation.beta != 1:
        return "GptOssExperts computes the clamped SwiGLU only"
    return config.has_bias or "GptOssExperts has biases"


class HFExperts:
    """`GptOssExperts` in float32, eager."""

    name = "hf_experts"
    capabilities: Mapping[str, Any] = {"arithmetic": "fp32", "shapes": _shapes}

    def unavailable(self) -> str | None:
        """transformers comes with the extra ``hf``."""
        if importlib.util.find_spec("transformers") is None:
            return "transformers is not installed (pip install 'mxmoe-conformance[hf]')"
        return None

    def prepare(
        self,
        weights: ExpertWeights,
        config: MoEConfig,
        shard: Shard,
        device: torch.device,
    ) -> dict[str, torch.Tensor]:
        """Weights as transformers loads them with ``Mxfp4Config(dequantize=True)``."""
        assert weights.gate_up_bias is not None
        assert weights.down_bias is not None
        return {
            "gate_up_proj": _convert(
                weights.gate_up_blocks, weights.gate_up_scales, device
            ),
            "gate_up_proj_bias": weights.gate_up_bias.to(device, torch.float32),
            "down_proj": _convert(weights.down_blocks, weights.down_scales, device),
            "down_proj_bias": weights.down_bias.to(device, torch.float32),
        }

    def forward(
        self,
        prepared: PreparedWeights,
        hidden_states: torch.Tensor,
        routing: Routing,
        *,
        tactic: object = None,
    ) -> torch.Tensor:
        """`GptOssExperts.forward`; it has no id -1, so those slots get weight 0."""
        from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts

        config = prepared.config
        with torch.device("meta"):
            experts = GptOssExperts(_hf_config(config))
        tensors: Mapping[str, Any] = prepared
        for name, tensor in tensors.items():
            setattr(experts, name, torch.nn.Parameter(tensor, requires_grad=False))
        empty = routing.ids < 0
        ids = torch.where(empty, 0, routing.ids).long()
        weights = torch.where(empty, 0, routing.weights)
        out: torch.Tensor = experts(hidden_states.float(), ids, weights)
        return out

    def decode(
        self, blocks: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype
    ) -> torch.Tensor:
        """`convert_moe_packed_tensors`, whose result is transposed."""
        from transformers.integrations.mxfp4 import convert_moe_packed_tensors

        lead = scales.shape[:-1]
        values = convert_moe_packed_tensors(
            blocks.reshape(1, -1, *blocks.shape[-2:]),
            scales.reshape(1, -1, scales.shape[-1]),
            dtype=dtype,
        )
        return values.transpose(1, 2).reshape(*lead, -1)


def _convert(
    blocks: torch.Tensor, scales: torch.Tensor, device: torch.device
) -> torch.Tensor:
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    return convert_moe_packed_tensors(blocks, scales, dtype=torch.float32).to(device)


def _hf_config(config: MoEConfig) -> Any:
    from transformers import GptOssConfig

    found = GptOssConfig(
        hidden_size=config.hidden,
        intermediate_size=config.intermediate,
        num_local_experts=config.experts,
        num_experts_per_tok=config.top_k,
        swiglu_alpha=config.activation.alpha,
        swiglu_limit=config.activation.limit,
    )
    found._experts_implementation = "eager"
    return found


candidate = HFExperts()
