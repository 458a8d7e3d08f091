"""The optimised Triton path as a candidate of the suite."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import torch
from triton import knobs

from mxmoe.kernels.triton_moe import ops
from mxmoe.kernels.triton_moe.decode_blocks import decode_blocks
from mxmoe.kernels.triton_moe.layer import layer_of
from mxmoe.kernels.triton_moe.moe import trace
from mxmoe.kernels.triton_moe.prepare import prepare
from mxmoe.kernels.triton_moe.tactics import TACTICS
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import PreparedWeights
from mxmoe.reference.types import Routing
from mxmoe.reference.types import Shard


class TritonMoe:
    """bfloat16 activations, MXFP4 weights, float32 sums and slots.

    Under ``TRITON_INTERPRET=1`` it runs on the CPU, in float32 throughout: the
    interpreter's bfloat16 is not bfloat16.
    """

    name = "triton_moe"

    @property
    def capabilities(self) -> Mapping[str, Any]:
        """What the suite may ask of it."""
        interpreted = knobs.runtime.interpret
        return {
            "arithmetic": "fp32" if interpreted else "w4a16_fp32acc",
            "layout": "triton_moe.v1",
            "devices": ("cpu",) if interpreted else ("cuda",),
            "shards": "any",
            "deterministic": True,
            "tactics": self.tactics,
        }

    def tactics(self, config: MoEConfig, tokens: int) -> Sequence[str]:
        """Labels of all tactics: each is right for every shape."""
        return [tactic.label() for tactic in TACTICS]

    def unavailable(self) -> str | None:
        """Why it cannot run here, or None."""
        if knobs.runtime.interpret or torch.cuda.is_available():
            return None
        return "needs a GPU that Triton compiles for, or TRITON_INTERPRET=1"

    def prepare(
        self,
        weights: ExpertWeights,
        config: MoEConfig,
        shard: Shard,
        device: torch.device,
    ) -> dict[str, torch.Tensor]:
        """Layout ``triton_moe.v1``."""
        return prepare(weights, config, shard, device)

    def forward(
        self,
        prepared: PreparedWeights,
        hidden_states: torch.Tensor,
        routing: Routing,
        *,
        tactic: str | None = None,
    ) -> torch.Tensor:
        """[t, h] -> [t, h]: this rank's partial sum."""
        return torch.ops.mxmoe.triton_moe(
            hidden_states,
            routing.ids,
            routing.weights,
            **ops.arguments(layer_of(prepared)),
            tactic=tactic or "",
        )

    def forward_fused(
        self,
        prepared: PreparedWeights,
        hidden_states: torch.Tensor,
        router_weight: torch.Tensor,
        router_bias: torch.Tensor | None,
        top_k: int,
    ) -> torch.Tensor:
        """Routing included."""
        return torch.ops.mxmoe.triton_moe_fused(
            hidden_states,
            router_weight,
            router_bias,
            top_k,
            prepared.config.routed_scaling,
            **ops.arguments(layer_of(prepared)),
        )

    def trace(
        self, prepared: PreparedWeights, hidden_states: torch.Tensor, routing: Routing
    ) -> dict[str, torch.Tensor]:
        """The stages; columns are the lanes that the rank owns."""
        stages = trace(hidden_states, routing, layer_of(prepared))
        lanes = prepared.valid_intermediate
        stages["gate_up"] = stages["gate_up"][..., : 2 * lanes]
        stages["activation"] = stages["activation"][..., :lanes]
        return stages

    def route(
        self, logits: torch.Tensor, top_k: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """ids int32 [t, k], weights float32 [t, k]."""
        return torch.ops.mxmoe.triton_moe_route(logits, top_k)

    def decode(
        self, blocks: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype
    ) -> torch.Tensor:
        """The decoder of the GEMMs alone, [..., g, 16] and [..., g] -> [..., 32g]."""
        return decode_blocks(blocks, scales, dtype)


candidate = TritonMoe()
