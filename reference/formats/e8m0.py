"""E8M0, the block scale: one byte b, the biased exponent, value 2**(b - 127).

No sign, no mantissa, no zero, no Inf. Source: OCP Microscaling Formats (MX)
v1.0, section 5.4.1. Where implementations differ, this is the choice here:

====  ==================  ====================================================
byte  here                elsewhere
====  ==================  ====================================================
0x00  2**-127, exact      0.0 where a decoder builds float32 bits as ``b << 23``
                          (triton_kernels, Quark)
0xFD  2**126: codes of 4  the largest finite value in newer triton_kernels
0xFE  2**127: codes of 2  (the products pass the range of float32 and bfloat16)
0xFF  NaN, whole block    +-Inf, and 0 for codes 0 and 8, where a decoder uses
                          ldexp (transformers, gpt_oss)
====  ==================  ====================================================

ml_dtypes, torch's float8_e8m0fnu and torchao agree with this page on all four.
A checkpoint that holds 0xFF is refused on reading.
"""

from __future__ import annotations

import torch

BIAS = 127
NAN_BYTE = 0xFF
MAX_BYTE = 0xFE


def exponents(scales: torch.Tensor) -> torch.Tensor:
    """uint8 biased exponents -> int32 exponents; 0xFF gives 128, to be masked."""
    return scales.to(torch.int32) - BIAS


def values(scales: torch.Tensor) -> torch.Tensor:
    """uint8 biased exponents -> float64 powers of two; 0xFF gives NaN."""
    powers = torch.ldexp(
        torch.ones(scales.shape, dtype=torch.float64, device=scales.device),
        exponents(scales),
    )
    return torch.where(scales == NAN_BYTE, torch.nan, powers)
