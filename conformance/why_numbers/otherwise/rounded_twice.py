"""Outputs that went through another format on their way to their own."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mxmoe.conformance.bounds.propagated import half_ulp
from mxmoe.conformance.why_numbers.layer_steps import through

# Numbers of float16 are 2**-24 apart down there; those of bfloat16 at most 2**-7
_FLOAT16_COARSER = 2.0**-17


def rounded_twice(
    found: torch.Tensor, truth: torch.Tensor, allowed: torch.Tensor, dtype: torch.dtype
) -> list[str]:
    """Whether `found` [t, h] went through float16 on its way to `dtype`.

    A number that is rounded to a tie of `dtype` goes on to the even neighbour, which
    may be the further one. Most elements are right all the same: it is likelier than no
    other cause, so it is for outputs that nothing else explains.
    """
    chain = (torch.float16, dtype)
    told = dtype is torch.bfloat16 and _rounded(found, truth, allowed, chain)
    return ["output rounded to float16, then to bfloat16"] if told else []


def through_float16(
    found: torch.Tensor, truth: torch.Tensor, allowed: torch.Tensor, dtype: torch.dtype
) -> list[str]:
    """As `rounded_twice`, where all that is wrong is so small that float16 is coarser.

    There few numbers are what a rounding to float16 gives. The class's own rounding may
    have come first.
    """
    got = found.detach().cpu().double().reshape(truth.shape)
    bad = ~((got - truth).abs() <= allowed)
    if dtype is not torch.bfloat16 or not (truth[bad].abs() < _FLOAT16_COARSER).all():
        return []
    first = _rounded(got, truth, allowed, (dtype, torch.float16, dtype))
    names = ["output rounded to float16"] if first else []
    return names + rounded_twice(got, truth, allowed, dtype)


def _rounded(
    found: torch.Tensor,
    truth: torch.Tensor,
    allowed: torch.Tensor,
    chain: Sequence[torch.dtype],
) -> bool:
    """Whether every element is what roundings, one behind the other, may give."""
    got = found.detach().cpu().double().reshape(truth.shape)
    own = (allowed - half_ulp(truth, chain[-1])).clamp(min=0)
    low, high = truth - own, truth + own
    for dtype in chain:
        low, high = through(low, dtype=dtype), through(high, dtype=dtype)
    return bool(((low <= got) & (got <= high)).all())
