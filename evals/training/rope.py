"""YaRN's rotary embedding, as gpt-oss has it (Peng et al., arXiv:2309.00071)."""

from __future__ import annotations

import math

import torch

from mxmoe.evals.training.shape import ROPE


def frequencies(head_dim: int) -> torch.Tensor:
    """float32 [head_dim/2]: radians a position, slow ones stretched by the factor."""
    theta, factor = float(ROPE["rope_theta"]), float(ROPE["factor"])
    original = float(ROPE["original_max_position_embeddings"])
    fast = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)

    def index_of(turns: float) -> float:
        # The (fractional) index whose frequency makes `turns` turns in `original`.
        positions_a_radian = original / (turns * 2 * math.pi)
        return head_dim * math.log(positions_a_radian) / (2 * math.log(theta))

    first = max(index_of(float(ROPE["beta_fast"])), 0)
    last = min(index_of(float(ROPE["beta_slow"])), head_dim - 1)
    index = torch.arange(head_dim // 2, dtype=torch.float32)
    stretched = ((index - first) / (last - first)).clamp(0, 1)
    return fast / factor * stretched + fast * (1 - stretched)


def rotations(
    positions: torch.Tensor, head_dim: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """cos, sin float32 [b, 1, s, head_dim/2] of integer positions [b, s].

    Both times YaRN's attention factor, 0.1 ln(factor) + 1.
    """
    angles = positions[:, None, :, None] * frequencies(head_dim).to(positions.device)
    gain = 0.1 * math.log(float(ROPE["factor"])) + 1
    return angles.cos() * gain, angles.sin() * gain


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate [b, heads, s, d]; element j belongs with element j + d/2."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat(
        (first * cos - second * sin, second * cos + first * sin), dim=-1
    ).to(x.dtype)
