"""A dense candidate in plain PyTorch: every expert for every token, then a mask.

Written without a look at the reference: weights are decoded once in `prepare`, the
GEMMs are batched over experts, and the routing becomes a dense [t, e] matrix.
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
        """Decode this rank's experts and lanes to bfloat16, gate and up apart."""
        owned = shard.expert_range(config)
        lanes = shard.intermediate_range(config)
        e, i = slice(owned.start, owned.stop), slice(lanes.start, lanes.stop)
        w1 = _decode_experts(weights.gate_up_blocks[e], weights.gate_up_scales[e])
        w2 = _decode_experts(weights.down_blocks[e], weights.down_scales[e])
        prepared = {
            "gate": w1[:, 0::2][:, i],
            "up": w1[:, 1::2][:, i],
            "down": w2[:, :, i],
        }
        if weights.gate_up_bias is not None and weights.down_bias is not None:
            prepared["gate_bias"] = weights.gate_up_bias[e, 0::2][:, i].float()
            prepared["up_bias"] = weights.gate_up_bias[e, 1::2][:, i].float()
            prepared["down_bias"] = weights.down_bias[e].float() / shard.tp_size
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
        activation = p.config.activation
        x = hidden_states.float()
        gate = torch.einsum("th,eih->tei", x, p["gate"].float())
        up = torch.einsum("th,eih->tei", x, p["up"].float())
        if "gate_bias" in p:
            gate, up = gate + p["gate_bias"], up + p["up_bias"]
        gate_up = torch.stack((gate, up), dim=-1).flatten(-2)
        gate = gate.clamp_max(activation.limit)
        up = up.clamp(-activation.limit, activation.limit)
        act = torch.sigmoid(activation.alpha * gate) * gate * (up + activation.beta)
        act = act.bfloat16().float()
        down = torch.einsum("tei,ehi->teh", act, p["down"].float())
        if "down_bias" in p:
            down = down + p["down_bias"]
        rows = _rows_of_slots(routing.ids, p.shard.expert_range(p.config))
        mix = _dense_weights(routing, p.shard.expert_range(p.config))
        return {
            "gate_up": rows(gate_up),
            "activation": rows(act),
            "down": rows(down),
            "combine": torch.einsum("te,teh->th", mix, down).to(hidden_states.dtype),
        }

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
    pairs = zip(blocks, scales, strict=True)
    return torch.stack([dequantize(b, s) for b, s in pairs])


def _rows_of_slots(ids: torch.Tensor, owned: range) -> Any:
    """[t, e, n] of local experts -> [t, k, n] by slot, zero where not served."""
    local = (ids - owned.start).long()
    served = (ids >= owned.start) & (ids < owned.stop)

    def take(stage: torch.Tensor) -> torch.Tensor:
        index = torch.where(served, local, 0)[..., None].expand(-1, -1, stage.shape[2])
        return torch.where(served[..., None], stage.gather(1, index), 0)

    return take


def _dense_weights(routing: Routing, owned: range) -> torch.Tensor:
    """Routing as float32 [t, e] over this rank's experts."""
    experts = torch.arange(owned.start, owned.stop, device=routing.ids.device)
    hit = routing.ids[..., None] == experts
    return torch.where(hit, routing.weights.float()[..., None], 0).sum(dim=1)


candidate = TorchDense()
