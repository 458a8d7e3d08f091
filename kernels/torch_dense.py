"""A dense candidate in plain PyTorch: every visited expert for every token, masked.

Written without a look at the reference. `prepare` keeps the checkpoint's bytes in
their order (layout ``checkpoint.v1``) and cuts out the rank's part; `forward`
decodes, batches the GEMMs over experts, and mixes with a dense [t, e] matrix.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from mxmoe.kernels.mxfp4_bits import dequantize
from mxmoe.kernels.mxfp4_bits import quantize
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import PreparedWeights
from mxmoe.reference.types import Routing
from mxmoe.reference.types import Shard


class TorchDense:
    """bf16 weights and activations, float32 products and sums."""

    name = "torch_dense"
    capabilities: Mapping[str, Any] = {
        "arithmetic": "w4a16_fp32acc",
        "layout": "checkpoint.v1",
        "shards": "any",
        "deterministic": True,
    }

    def prepare(
        self,
        weights: ExpertWeights,
        config: MoEConfig,
        shard: Shard,
        device: torch.device,
    ) -> dict[str, torch.Tensor]:
        """The bytes of this rank's experts and lanes, copied to `device`."""
        experts, lanes = shard.expert_range(config), shard.intermediate_range(config)
        e = slice(experts.start, experts.stop)
        rows = slice(2 * lanes.start, 2 * lanes.stop)
        groups = slice(lanes.start // 32, lanes.stop // 32)
        prepared = {
            "gate_up_blocks": weights.gate_up_blocks[e, rows],
            "gate_up_scales": weights.gate_up_scales[e, rows],
            "down_blocks": weights.down_blocks[e, :, groups],
            "down_scales": weights.down_scales[e, :, groups],
        }
        if weights.gate_up_bias is not None and weights.down_bias is not None:
            prepared["gate_up_bias"] = weights.gate_up_bias[e, rows]
            prepared["down_bias"] = weights.down_bias[e]
        return {n: t.contiguous().clone().to(device) for n, t in prepared.items()}

    def forward(
        self,
        prepared: PreparedWeights,
        hidden_states: torch.Tensor,
        routing: Routing,
        *,
        tactic: object = None,
    ) -> torch.Tensor:
        """The weighted sum over this rank's experts, in the dtype of the input."""
        return self.trace(prepared, hidden_states, routing)["combine"]

    def trace(
        self, prepared: PreparedWeights, hidden_states: torch.Tensor, routing: Routing
    ) -> dict[str, torch.Tensor]:
        """All stages; rows of slots that this rank does not serve are zero."""
        p: Any = prepared
        activation, first = p.config.activation, p.shard.expert_range(p.config).start
        here = torch.arange(len(p["gate_up_blocks"]), device=routing.ids.device) + first
        # torch.isin raises on CUDA ids with gaps between rows (torch 2.11).
        visited = here[(routing.ids[..., None] == here).flatten(0, 1).any(dim=0)]
        e = visited - first
        w1 = _decode_experts(p["gate_up_blocks"][e], p["gate_up_scales"][e])
        w2 = _decode_experts(p["down_blocks"][e], p["down_scales"][e])
        gate_up = torch.einsum("th,eih->tei", hidden_states.float(), w1)
        if "gate_up_bias" in p:
            gate_up = gate_up + p["gate_up_bias"][e].float()
        gate = gate_up[..., 0::2].clamp_max(activation.limit)
        up = gate_up[..., 1::2].clamp(-activation.limit, activation.limit)
        act = torch.sigmoid(activation.alpha * gate) * gate * (up + activation.beta)
        act = act.bfloat16().float()
        down = torch.einsum("tei,ehi->teh", act, w2)
        if "down_bias" in p:
            down = down + p["down_bias"][e].float() / p.shard.tp_size
        hit = routing.ids[..., None] == visited  # [t, k, e]
        mix = torch.where(hit, routing.weights.float()[..., None], 0).sum(dim=1)
        stages = {"gate_up": gate_up, "activation": act, "down": down}
        by_slot = {
            name: torch.einsum("tke,ten->tkn", hit.float(), stage)
            for name, stage in stages.items()
        }
        combine = torch.einsum("te,teh->th", mix, down).to(hidden_states.dtype)
        return {**by_slot, "combine": combine}

    def forward_fused(
        self,
        prepared: PreparedWeights,
        hidden_states: torch.Tensor,
        router_weight: torch.Tensor,
        router_bias: torch.Tensor | None,
        top_k: int,
    ) -> torch.Tensor:
        """Logits in float32, then `route`, then `forward`."""
        logits = hidden_states.float() @ router_weight.float().T
        if router_bias is not None:
            logits = logits + router_bias.float()
        ids, weights = self.route(logits, top_k)
        return self.forward(prepared, hidden_states, Routing(ids, weights))

    def route(
        self, logits: torch.Tensor, top_k: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """k times the first largest; NaN counts as largest, so ids stay distinct."""
        left = logits.float().nan_to_num(
            nan=torch.inf, posinf=torch.inf, neginf=-torch.inf
        )
        taken = torch.zeros_like(left, dtype=torch.bool)
        columns = torch.arange(left.shape[1], device=left.device)
        picks = []
        for _ in range(top_k):
            best = torch.where(taken, -torch.inf, left).amax(dim=1, keepdim=True)
            candidates = (left == best) & ~taken
            pick = torch.where(candidates, columns, left.shape[1]).amin(dim=1)
            taken[torch.arange(len(pick), device=left.device), pick] = True
            picks.append(pick)
        ids = torch.stack(picks, dim=1)
        chosen = logits.float().gather(1, ids)
        shifted = (chosen - chosen.amax(dim=1, keepdim=True)).exp()
        return ids.int(), shifted / shifted.sum(dim=1, keepdim=True)

    def decode(
        self, blocks: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype
    ) -> torch.Tensor:
        """The codec alone."""
        return dequantize(blocks, scales, dtype)

    def encode(self, x: torch.Tensor, rule: str) -> tuple[torch.Tensor, torch.Tensor]:
        """The codec alone."""
        return quantize(x, rule)


def _decode_experts(blocks: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """One expert at a time: the decoder's temporaries are 8 times its result."""
    shape = (*blocks.shape[:2], blocks.shape[2] * 32)
    weights = torch.empty(shape, dtype=torch.float32, device=blocks.device)
    for out, b, s in zip(weights, blocks, scales, strict=True):
        out.copy_(dequantize(b, s))
    return weights


candidate = TorchDense()
