"""What each tensor-parallel rank adds of a bias that all of them add."""

from __future__ import annotations

import torch


def bias_share(bias: torch.Tensor, tp_size: int) -> torch.Tensor:
    """1/tp of the bias in float32, rounded once: their sum over the ranks is the bias.

    Any shape and floating dtype; on the same device.
    """
    # On CUDA a division by a number would multiply by its rounded reciprocal.
    return bias.float() / torch.full((1,), float(tp_size), device=bias.device)
