"""The gated activation between the two GEMMs."""

from __future__ import annotations

import torch

from mxmoe.reference.types import Activation


def split_halves(gate_up: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[..., 2i] in checkpoint order -> gate [..., i] (even), up [..., i] (odd)."""
    return gate_up[..., 0::2], gate_up[..., 1::2]


def activate(gate_up: torch.Tensor, activation: Activation) -> torch.Tensor:
    """gate' * sigmoid(alpha * gate') * (up' + beta), in the dtype of `gate_up`.

    gate_up : floating [..., 2i], interleaved. Returns [..., i]. The gate is
    clamped from above only, the up half from both sides.
    """
    gate, up = split_halves(gate_up)
    gate = gate.clamp(max=activation.limit)
    up = up.clamp(min=-activation.limit, max=activation.limit)
    return gate * torch.sigmoid(activation.alpha * gate) * (up + activation.beta)
