"""Two elements a byte: byte b holds element 2b low and element 2b+1 high.

Source: openai/gpt-oss, ``gpt_oss/torch/weights.py``; OCP MX leaves the order open.
"""

from __future__ import annotations

import torch


def unpack_nibbles(packed: torch.Tensor) -> torch.Tensor:
    """uint8 [..., b] -> uint8 codes [..., 2b], low nibble first."""
    return torch.stack((packed & 0xF, packed >> 4), dim=-1).flatten(-2)


def pack_nibbles(codes: torch.Tensor) -> torch.Tensor:
    """uint8 codes [..., 2b] -> uint8 [..., b], low nibble first."""
    pairs = codes.unflatten(-1, (-1, 2))
    return pairs[..., 0] | (pairs[..., 1] << 4)
