"""Values -> blocks and biased exponents, under a named scale rule.

Public quantisers follow at least three rules for the shared exponent of a block
with largest magnitude amax = m * 2**q, 1 <= m < 2:

=======  ==================================  =================================
rule     exponent of the scale               same as
=======  ==================================  =================================
floor    q - 2                               OCP MX v1.0, section 6.3; torchao
         (m > 1.5 saturates at 6)            FLOOR, triton_kernels ROUND_DOWN
even     q - 2, or q - 1 when m >= 1.75      torchao EVEN, vLLM, Quark
         (amax rounded to E2M1 precision)
ceil     q - 2, or q - 1 when m > 1.5        torchao RCEIL, triton_kernels
         (smallest with amax / 2**x <= 6)    ROUND_UP, gpt-oss conversion
=======  ==================================  =================================

Elements are rounded to nearest, ties to even, and saturate at +-6. The edges:

* an all-zero block has scale byte 0 (all implementations but one);
* an exponent below -127 is taken as -127 and the elements are divided by that
  scale exactly (some implementations divide by 2**-126 and are off by two);
* NaN anywhere gives scale byte 0xFF, so the whole block decodes to NaN (OCP MX
  v1.0, section 5.1; torchao), with codes 0;
* +-Inf counts as 2**128: byte 253 under floor and even, and under ceil, which
  no finite scale satisfies, the largest byte 254; the element becomes +-6
  (torchao);
* -0, and what rounds to zero from below, keeps its sign as code 8.
"""

from __future__ import annotations

import torch

from mxmoe.reference.errors import BadInput
from mxmoe.reference.formats import e2m1
from mxmoe.reference.formats import e8m0
from mxmoe.reference.formats.nibbles import pack_nibbles
from mxmoe.reference.types import BLOCK

SCALE_RULES = ("floor", "even", "ceil")

# The exponent of the largest E2M1 value, 6 = 1.5 * 2**2.
_EMAX_E2M1 = 2
# The mantissa of amax from which each rule takes the next exponent.
_EVEN_STEPS_UP_AT = 1.75
_CEIL_STEPS_UP_ABOVE = 1.5
# Inf counts as the first power of two beyond float32.
_INF_EXPONENT = 128


def encode(x: torch.Tensor, rule: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise to MXFP4 under `rule`.

    x : floating [..., 32g]. Returns blocks uint8 [..., g, 16] (packed) and
    scales uint8 [..., g] (biased exponents). Raises `BadInput` for an unknown
    rule or a last axis that is not a multiple of 32.
    """
    if rule not in SCALE_RULES:
        raise BadInput(
            f"scale rule: expected one of {', '.join(SCALE_RULES)}, found {rule!r}"
        )
    if x.ndim == 0 or x.shape[-1] % BLOCK:
        raise BadInput(
            f"encode: expected a last axis that is a multiple of {BLOCK}, "
            f"found shape {list(x.shape)}"
        )
    groups = x.to(torch.float64).unflatten(-1, (-1, BLOCK))
    amax = groups.abs().amax(dim=-1)
    exponent = _scale_exponent(amax, rule)
    is_nan = amax.isnan()
    codes = e2m1.round_to_code(torch.ldexp(groups, -exponent[..., None]))
    codes = torch.where(is_nan[..., None], 0, codes)
    scales = (exponent + e8m0.BIAS).to(torch.uint8)
    return pack_nibbles(codes), torch.where(is_nan, e8m0.NAN_BYTE, scales)


def _scale_exponent(amax: torch.Tensor, rule: str) -> torch.Tensor:
    """int32 exponent of the block scale, within what E8M0 can store."""
    half_mantissa, one_above = torch.frexp(amax)
    mantissa, exponent = 2 * half_mantissa, one_above - 1
    exponent = torch.where(amax.isinf(), _INF_EXPONENT, exponent)
    scale = exponent - _EMAX_E2M1
    if rule == "even":
        scale += (mantissa >= _EVEN_STEPS_UP_AT) & amax.isfinite()
    if rule == "ceil":
        scale += mantissa > _CEIL_STEPS_UP_ABOVE
    lowest, highest = -e8m0.BIAS, e8m0.MAX_BYTE - e8m0.BIAS
    scale = torch.where(amax == 0, lowest, scale)
    return scale.clamp(lowest, highest).to(torch.int32)
