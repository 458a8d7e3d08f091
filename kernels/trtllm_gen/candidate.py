"""The trtllm-gen path as a candidate: our fast preparation, read by the emulation.

What it says of prepared bytes holds for a B200 as far as the emulation is right; its
verdicts are always marked as emulated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from mxmoe.kernels.trtllm_gen import emulated
from mxmoe.kernels.trtllm_gen.decoded import LoadedExperts
from mxmoe.kernels.trtllm_gen.decoded import dequantize
from mxmoe.kernels.trtllm_gen.decoded import load
from mxmoe.kernels.trtllm_gen.prepare import prepare
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import PreparedWeights
from mxmoe.reference.types import Routing
from mxmoe.reference.types import Shard


class TrtllmGen:
    """Layout ``trtllm_gen.v1``, arithmetic of `emulated`."""

    name = "trtllm_gen"
    capabilities: Mapping[str, Any] = {
        "arithmetic": "w4a16_fp32acc",
        "layout": "trtllm_gen.v1",
        "shards": "any",
        "execution": "emulated",
        "deterministic": True,
    }

    def prepare(
        self,
        weights: ExpertWeights,
        config: MoEConfig,
        shard: Shard,
        device: torch.device,
    ) -> dict[str, torch.Tensor]:
        """The six tensors and the SwiGLU parameters of this rank."""
        return prepare(weights, config, shard, device)

    def load(self, prepared: PreparedWeights) -> LoadedExperts:
        """What `forward` takes as well, all experts decoded once; for whole models."""
        return load(prepared)

    def forward(
        self,
        prepared: PreparedWeights | LoadedExperts,
        hidden_states: torch.Tensor,
        routing: Routing,
        *,
        tactic: object = None,
    ) -> torch.Tensor:
        """`emulated.forward`; there is one way to compute, and no tactic."""
        return emulated.forward(prepared, hidden_states, routing)

    def trace(
        self, prepared: PreparedWeights, hidden_states: torch.Tensor, routing: Routing
    ) -> dict[str, torch.Tensor]:
        """`emulated.trace`."""
        return emulated.trace(prepared, hidden_states, routing)

    def forward_fused(
        self,
        prepared: PreparedWeights,
        hidden_states: torch.Tensor,
        router_weight: torch.Tensor,
        router_bias: torch.Tensor | None,
        top_k: int,
    ) -> torch.Tensor:
        """`emulated.forward_fused`."""
        return emulated.forward_fused(
            prepared, hidden_states, router_weight, router_bias, top_k
        )

    def route(
        self, logits: torch.Tensor, top_k: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`emulated.route`."""
        return emulated.route(logits, top_k)

    def decode(
        self, blocks: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype
    ) -> torch.Tensor:
        """The codec of the emulation alone, [..., g, 16] and [..., g]."""
        rows = scales.reshape(-1, scales.shape[-1])
        values = dequantize(blocks.reshape(len(rows), -1), rows)
        return values.view(*scales.shape[:-1], -1).to(dtype)


candidate = TrtllmGen()
