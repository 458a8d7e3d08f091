"""E2M1, the 4-bit element: 1 sign, 2 exponent (bias 1), 1 mantissa bit.

Values +-{0, 0.5, 1, 1.5, 2, 3, 4, 6}; no Inf, no NaN; code 8 is -0.
Source: OCP Microscaling Formats (MX) v1.0, section 5.3.3.
"""

from __future__ import annotations

import torch

# fmt: off
VALUES = (
    +0.0, +0.5, +1.0, +1.5, +2.0, +3.0, +4.0, +6.0,
    -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0,
)
# fmt: on
MAX = 6.0

# The seven points half way between neighbours. At a midpoint round-to-nearest-
# even takes the neighbour with mantissa bit 0, i.e. the even code.
MIDPOINTS = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)


def value_from_bits(codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(significand, exponent) with value = significand * 2**exponent, by arithmetic.

    With sign s, exponent field x and mantissa m: significand =
    +-(2*[x > 0] + m), exponent = max(x, 1) - 2. `codes` uint8 of 0..15; the
    significand is float64 and keeps the sign of zero, the exponent int32.
    """
    sign = codes >> 3
    field = (codes >> 1) & 3
    mantissa = codes & 1
    magnitude = (2 * (field > 0).to(torch.uint8) + mantissa).to(torch.float64)
    significand = torch.where(sign == 1, -magnitude, magnitude)
    return significand, field.to(torch.int32).clamp(min=1) - 2


def round_to_code(values: torch.Tensor) -> torch.Tensor:
    """float64 values -> uint8 codes: round to nearest, ties to even, saturate at 6.

    The sign survives on zero: -0.0 and values that round to zero from below
    give code 8. NaN has no code; callers mark it in the scale.
    """
    magnitude = values.abs()
    code = torch.zeros(values.shape, dtype=torch.uint8, device=values.device)
    for below, midpoint in enumerate(MIDPOINTS):
        above_is_even = below % 2 == 1
        passed = magnitude >= midpoint if above_is_even else magnitude > midpoint
        code += passed.to(torch.uint8)
    return code + 8 * torch.signbit(values).to(torch.uint8)
