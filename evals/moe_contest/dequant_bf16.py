"""Dequantise once, then bf16 grouped GEMMs: what MXFP4 weights have to beat.

Everything around the two GEMMs is plain torch. The grouped GEMM gives bfloat16, so
that gate_up is rounded once more than the arithmetic class says, and its bias is added
in bfloat16; the output stays inside the class's bound.
"""

from __future__ import annotations

import torch

from mxmoe.evals.moe_contest.contestant import Layer
from mxmoe.evals.moe_contest.contestant import Unavailable
from mxmoe.kernels.mxfp4_bits import dequantize
from mxmoe.reference.types import ARITHMETIC
from mxmoe.reference.types import Activation
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig


class DequantBf16:
    """``torch._grouped_mm`` over experts, offsets on the device."""

    name = "dequant_bf16"
    arithmetic = ARITHMETIC["w4a16_fp32acc_bf16slots"]
    routing_dtype = torch.float32
    router = "bfloat16 logits (torch linear), top-k and softmax in float32"
    version = f"torch {torch.__version__}"

    def build(
        self, weights: ExpertWeights, config: MoEConfig, device: torch.device
    ) -> Layer:
        """See `Contestant`."""
        if not hasattr(torch, "_grouped_mm"):
            raise Unavailable(
                "torch has no _grouped_mm, and a loop over experts waits for the GPU"
            )
        gate_up = _decoded(weights.gate_up_blocks, weights.gate_up_scales)
        w1 = _halves(gate_up)
        del gate_up
        w2 = _decoded(weights.down_blocks, weights.down_scales)
        b1, b2 = weights.gate_up_bias, weights.down_bias
        assert b1 is not None
        assert b2 is not None
        b1 = _halves(b1[..., None])[..., 0]
        experts = torch.arange(config.experts, device=device)
        top_k, activation = config.top_k, config.activation

        def layer(x: torch.Tensor) -> torch.Tensor:
            logits = torch.nn.functional.linear(
                x, weights.router_weight, weights.router_bias
            )
            values, ids = logits.float().topk(top_k)
            by_expert, order = ids.flatten().sort(stable=True)
            ends = torch.searchsorted(by_expert, experts, right=True).int()
            z = torch._grouped_mm(x[order // top_k], w1.mT, offs=ends)
            z += b1[by_expert]
            y = torch._grouped_mm(_swiglu(z, activation), w2.mT, offs=ends)
            y += b2[by_expert]
            position = torch.empty_like(order)
            position[order] = torch.arange(len(order), device=device)
            slots = y[position].view(*ids.shape, -1)
            mixed = slots * values.softmax(dim=1)[..., None]
            return mixed.sum(dim=1).to(x.dtype)

        return layer


def _decoded(blocks: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """bfloat16 [e, rows, columns]; exact, one expert at a time to save memory."""
    return torch.stack([dequantize(b, s) for b, s in zip(blocks, scales, strict=True)])


def _halves(rows: torch.Tensor) -> torch.Tensor:
    """[e, 2i, n] interleaved -> all gates, then all ups: a half is then contiguous."""
    return torch.cat((rows[:, 0::2], rows[:, 1::2]), dim=1)


def _swiglu(z: torch.Tensor, activation: Activation) -> torch.Tensor:
    gate, up = z.chunk(2, dim=1)
    gate = gate.clamp(max=activation.limit).float()
    up = up.clamp(-activation.limit, activation.limit).float()
    a = gate * torch.sigmoid(activation.alpha * gate) * (up + activation.beta)
    return a.to(z.dtype)
