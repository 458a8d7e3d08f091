"""The size that honest errors have, against which what a hypothesis leaves is held."""

from __future__ import annotations

import math

import torch

from mxmoe.conformance.bounds.propagated import CONFIDENCE
from mxmoe.conformance.bounds.propagated import half_ulp
from mxmoe.conformance.why_numbers.layer_steps import Fit
from mxmoe.conformance.why_numbers.layer_steps import mean_square

Tensor = torch.Tensor
_TINY = torch.finfo(torch.float64).tiny

# Variances are bounds from above, but what truncates counts as random here.
_LARGEST = 1.5
# Columns of a token share the roundings of its lanes: so many elements count as one.
ALIKE = 4
# Standard deviations, of what the mean square of few elements may be off by.
_SPREAD = 3.0
# A hypothesis that is this much likelier than the layer as it should be (e**12 to 1)
# explains something; one that is as much less likely than another is not named.
_LIKELIER = 12.0


def honest_variance(truth: Tensor, allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """[t, h]: of an output whose bound is `allowed` and which is rounded to `dtype`."""
    rounding = torch.minimum(half_ulp(truth, dtype), allowed)
    own = ((allowed - rounding) / CONFIDENCE).square()
    return (own + rounding.square() / 3).clamp(min=_TINY)


def has_honest_size(error: Tensor, variance: Tensor) -> bool:
    """Whether errors [t, h] are as large as honest ones, all in all."""
    if not error.numel():
        return True
    most = _LARGEST + _SPREAD * math.sqrt(2 * ALIKE / error.numel())
    return float((error.square() / variance).mean()) <= most


def part_left(after: Tensor, before: Tensor, allowed: Tensor) -> float:
    """The part of the mean square of error / allowed that a hypothesis leaves."""
    # Of a token that no expert of the rank serves nothing is allowed.
    size = allowed.where(allowed > 0, allowed.max() if len(allowed) else 1.0)
    size = size.where(size > 0, 1.0)
    return mean_square(after / size) / max(mean_square(before / size), _TINY)


def likeliest(fits: list[Fit], count: int, right: float = 1.0) -> list[Fit]:
    """Those that are likelier than no fault, and about as likely as the likeliest.

    count : of all elements. right : what the layer as it should be leaves, rounded.
    The size of the errors is taken as unknown: n of them have the likelihood
    left ** (-n / 2), but for a factor. What is so everywhere is simpler than what is so
    in a place.
    """
    share = likely_share(count)
    close = [fit for fit in fits if fit.left <= share * right]
    least = min((fit.left for fit in close), default=0.0)
    likely = [fit for fit in close if fit.left <= least / share]
    everywhere = [fit for fit in likely if not fit.place]
    return list({str(fit): fit for fit in everywhere or likely}.values())


def likely_share(count: int, *, nats: float = _LIKELIER) -> float:
    """A mean square over `count` elements is e**nats times likelier by this factor."""
    return math.exp(-2 * nats * ALIKE / max(count, 1))
