"""Prepared bytes -> the numbers that the kernel multiplies, still in physical rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from mxmoe.kernels.trtllm_gen.addressing import scale_offsets_on
from mxmoe.reference.types import BLOCK
from mxmoe.reference.types import PreparedWeights

# OCP Microscaling Formats v1.0, table 2: E2M1 by code, bit 3 is the sign.
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_E8M0_BIAS, _E8M0_NAN = 127, 255


@dataclass(frozen=True, kw_only=True, eq=False)
class DecodedExpert:
    """One expert as the two GEMMs see it; row n is physical row n.

    w1 float32 [2P, H1], b1 [2P] or None; w2 [H2, P], b2 [H2] or None; alpha, beta,
    limit float32 [].
    """

    w1: torch.Tensor
    b1: torch.Tensor | None
    w2: torch.Tensor
    b2: torch.Tensor | None
    alpha: torch.Tensor
    beta: torch.Tensor
    limit: torch.Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedExperts:
    """All experts of a rank, decoded once: 8 times the prepared bytes in memory."""

    prepared: PreparedWeights
    experts: tuple[DecodedExpert, ...]


def load(prepared: PreparedWeights) -> LoadedExperts:
    """Decode every expert, for many calls with small weights."""
    count = _tensor(prepared, "fc1_weights").shape[0]
    experts = tuple(decode_expert(prepared, local) for local in range(count))
    return LoadedExperts(prepared=prepared, experts=experts)


def decode_expert(prepared: PreparedWeights, local: int) -> DecodedExpert:
    """Decode expert number `local` of the rank."""
    tensors: Mapping[str, Any] = prepared
    bias = {
        name: tensors[name][local].float() if name in tensors else None
        for name in ("fc1_bias", "fc2_bias")
    }
    return DecodedExpert(
        w1=_decode(tensors["fc1_weights"][local], tensors["fc1_scales"][local]),
        b1=bias["fc1_bias"],
        w2=_decode(tensors["fc2_weights"][local], tensors["fc2_scales"][local]),
        b2=bias["fc2_bias"],
        alpha=tensors["swiglu_alpha"][local],
        beta=tensors["swiglu_beta"][local],
        limit=tensors["swiglu_limit"][local],
    )


def _tensor(prepared: PreparedWeights, name: str) -> torch.Tensor:
    tensor = prepared[name]
    assert isinstance(tensor, torch.Tensor)
    return tensor


def dequantize(packed: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """uint8 [rows, K/2] and row-major [rows, K/32] -> float32 [rows, K]."""
    nibbles, powers = _tables(packed.device)
    # index_select on words is four times faster than table[bytes] on a CPU.
    elements = nibbles.index_select(0, packed.flatten().int()).view(torch.float32)
    scale = powers.index_select(0, scales.flatten().int())
    blocks = elements.view(*scales.shape, BLOCK)
    return (blocks * scale.view(*scales.shape, 1)).flatten(1)


def _decode(packed: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """As `dequantize`, with the scales in their tiles."""
    tiles = scales.view(torch.uint8)
    offsets = scale_offsets_on(*tiles.shape, tiles.device)
    return dequantize(packed, tiles.flatten()[offsets])


@lru_cache(maxsize=8)
def _tables(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(byte -> its two elements, biased exponent -> 2**(b-127)), 256 entries each.

    The two float32 elements, low nibble first, are one word of 8 bytes.
    """
    codes = torch.tensor([*_E2M1, *(-value for value in _E2M1)])
    byte = torch.arange(256)
    nibbles = torch.stack((codes[byte & 15], codes[byte >> 4]), dim=1)
    # In float64: 2**-127 is a subnormal of float32, and exact there.
    powers = torch.exp2((byte - _E8M0_BIAS).double()).float()
    powers[_E8M0_NAN] = torch.nan
    return nibbles.view(torch.float64).flatten().to(device), powers.to(device)
