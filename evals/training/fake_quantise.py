"""MXFP4 in the forward pass, the identity in the backward pass.

The suite's encoder under rule "ceil" (no element saturates), followed by its decoder,
written for speed: what the training sees is what the exported bytes decode to.
"""

from __future__ import annotations

import torch

from mxmoe.reference.types import BLOCK

RULE = "ceil"
# The smallest scale: 2**(0 - 127).
_LOWEST_EXPONENT = -127
# E2M1's largest value is 1.5 * 2**2, and the mantissa above which the next exponent
# is taken is 1.5, i.e. 0.75 as frexp counts.
_EMAX, _STEPS_UP_ABOVE = 2, 0.75


def quantised_values(weight: torch.Tensor) -> torch.Tensor:
    """decode(encode(weight, "ceil")) in float32; `weight` float32 [..., 32g]."""
    blocks = weight.unflatten(-1, (-1, BLOCK))
    largest = blocks.abs().amax(dim=-1, keepdim=True)
    half_mantissa, exponent = torch.frexp(largest)
    exponent = exponent - 1 - _EMAX + (half_mantissa > _STEPS_UP_ABOVE).int()
    exponent = exponent.clamp(min=_LOWEST_EXPONENT)
    scaled = torch.ldexp(blocks, -exponent)
    size = scaled.abs()
    # Distance of neighbours: 0.5 below 2, 1 below 4, then 2. round() is to even, and
    # so is E2M1's, as the neighbours' codes are consecutive.
    gap = 0.5 + 0.5 * (size >= 2) + (size >= 4)
    rounded = torch.round(scaled / gap) * gap
    return torch.ldexp(rounded, exponent).flatten(-2)


def fake_quantise(weight: torch.Tensor) -> torch.Tensor:
    """`quantised_values` with the gradient of the identity (straight through)."""
    return weight + (quantised_values(weight.detach()) - weight.detach())
