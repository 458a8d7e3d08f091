"""Blocks and biased exponents -> values: value = E2M1[code] * 2**(byte - 127).

Both decoders work in float64, where every product is exact, and round once to
the dtype asked for. In float32 and bfloat16 that last step changes nothing for
bytes 0..252 and overflows to Inf for the large codes of bytes 253 and 254.
"""

from __future__ import annotations

from functools import cache

import torch

from mxmoe.reference.formats import e2m1
from mxmoe.reference.formats import e8m0
from mxmoe.reference.formats.nibbles import unpack_nibbles


def decode_table(
    blocks: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype = torch.float64
) -> torch.Tensor:
    """Decode by looking each code up.

    blocks : uint8 [..., g, 16], packed. scales : uint8 [..., g], biased
    exponents. Returns [..., 32g] in `dtype`.
    """
    pairs = _pairs_of_bytes().to(blocks.device)
    elements = pairs.index_select(0, blocks.flatten().int())
    elements = elements.reshape(*blocks.shape[:-1], 2 * blocks.shape[-1])
    return (elements * e8m0.values(scales)[..., None]).flatten(-2).to(dtype)


@cache
def _pairs_of_bytes() -> torch.Tensor:
    """float64 [256, 2]: the two elements of each byte."""
    table = torch.tensor(e2m1.VALUES, dtype=torch.float64, device="cpu")
    every_byte = torch.arange(256, dtype=torch.uint8, device="cpu")[:, None]
    return table[unpack_nibbles(every_byte).int()]


def decode_arithmetic(
    blocks: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype = torch.float64
) -> torch.Tensor:
    """Decode from the bit fields: significand * 2**(element + scale exponent).

    Arguments and result as in `decode_table`; written independently of it.
    """
    significand, exponent = e2m1.value_from_bits(unpack_nibbles(blocks))
    values = torch.ldexp(significand, exponent + e8m0.exponents(scales)[..., None])
    is_nan = (scales == e8m0.NAN_BYTE)[..., None]
    return torch.where(is_nan, torch.nan, values).flatten(-2).to(dtype)


decode = decode_table
