"""MXFP4 by bit fields of float32, the way a kernel does it in registers."""

from __future__ import annotations

import torch

_GROUP = 32


def dequantize(
    blocks: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype = torch.bfloat16
) -> torch.Tensor:
    """uint8 [..., g, 16] and biased exponents [..., g] -> [..., 32g] in `dtype`."""
    codes = torch.stack((blocks & 15, blocks >> 4), dim=-1).flatten(-2).int()
    sign = (codes & 8) << 28
    # The exponent and mantissa fields of E2M1 sit in float32 at bits 22 to 24 and
    # mean 2**-126 * value there, also for its one subnormal, 0.5.
    magnitude = ((codes & 7) << 22).view(torch.float32) * 2.0**126
    elements = (sign | magnitude.view(torch.int32)).view(torch.float32)
    exponent = scales.int()
    # 2**(b - 127) as the product of two normal numbers: 2**-127 is a subnormal.
    low = ((exponent + 1) // 2 + 63) << 23
    high = (exponent // 2 + 64) << 23
    power = [part.view(torch.float32).double() for part in (low, high)]
    scale = torch.where(scales == 255, torch.nan, power[0] * power[1])
    return (elements.double() * scale[..., None]).flatten(-2).to(dtype)


def quantize(x: torch.Tensor, rule: str) -> tuple[torch.Tensor, torch.Tensor]:
    """[..., 32g] -> blocks and biased exponents under floor, even or ceil."""
    groups = x.float().unflatten(-1, (-1, _GROUP))
    amax = groups.abs().amax(dim=-1)
    bits = amax.view(torch.int32)
    # Carry into the exponent field where the rule takes the next power of two: half
    # of the last E2M1 mantissa bit (even), anything above 1.5 (ceil).
    carry = {"floor": 0, "even": 1 << 21, "ceil": (1 << 22) - 1}[rule]
    field = torch.where(amax.isinf(), 255 + (rule == "ceil"), (bits + carry) >> 23)
    biased = (field - 2).clamp(0, 254)
    # A subnormal amax has field 0; its scale is the smallest one in any case.
    scaled = torch.ldexp(groups.double(), 127 - biased[..., None])
    magnitude = scaled.abs().clamp(max=6)
    # Steps of the grid: 0.5 below 2, 1 below 4, 2 above; torch.round breaks ties to
    # even multiples, which are the even codes.
    step = torch.where(magnitude < 2, 0.5, torch.where(magnitude < 4, 1.0, 2.0))
    rounded = (magnitude / step).round() * step
    code = torch.where(
        rounded < 2, 2 * rounded, torch.where(rounded < 4, rounded + 2, rounded / 2 + 4)
    )
    is_nan = amax.isnan()
    code = torch.where(is_nan[..., None], 0, code).to(torch.uint8)
    code = code | (groups.signbit().to(torch.uint8) << 3)
    pairs = code.unflatten(-1, (-1, 2))
    blocks = pairs[..., 0] | (pairs[..., 1] << 4)
    scales = torch.where(amax == 0, 0, biased)
    return blocks, torch.where(is_nan, 255, scales).to(torch.uint8)
