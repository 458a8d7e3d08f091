"""Two outputs that should agree: which is out of its own bound, and how they differ."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mxmoe.conformance.bounds import Judged
from mxmoe.conformance.bounds import half_ulp
from mxmoe.conformance.case import Case
from mxmoe.conformance.compare_numbers import compare_numbers
from mxmoe.conformance.designed import CaseData
from mxmoe.conformance.why_numbers.causes import causes
from mxmoe.conformance.why_numbers.causes import has_lanes
from mxmoe.conformance.why_numbers.expert_content import Experts
from mxmoe.conformance.why_numbers.far_numbers import far_numbers
from mxmoe.conformance.why_numbers.honest_size import likeliest
from mxmoe.conformance.why_numbers.honest_size import part_left
from mxmoe.conformance.why_numbers.hypotheses import too_large
from mxmoe.conformance.why_numbers.layer_steps import Fit
from mxmoe.conformance.why_numbers.layer_steps import situation_of
from mxmoe.conformance.why_numbers.otherwise import explain_otherwise
from mxmoe.conformance.why_numbers.otherwise import wrong_output
from mxmoe.conformance.why_numbers.output import rounded_twice
from mxmoe.reference.types import Arithmetic

Tensor = torch.Tensor
_SHOWN = 4
# Searches that only measure errors, and so are no cause where another one is.
_SIZES = {"noise", "fitted slots"}
_TINY = torch.finfo(torch.float64).tiny
# Fewer numbers have one difference, or one ratio, by chance.
_FEWEST = 32


@dataclass(frozen=True, kw_only=True, eq=False)
class Side:
    """One of the outputs: ``words`` name it. out : [t, h]."""

    words: str
    case: Case
    data: CaseData
    judged: Judged
    out: Tensor

    @property
    def worst(self) -> float:
        """The largest error / allowed; above 1 it is out of its own bound."""
        truth, allowed = self.judged.truth["combine"], self.judged.allowed["combine"]
        return compare_numbers(self.out, truth, allowed).worst


def explain_sides(sides: Sequence[Side], arithmetic: Arithmetic) -> list[str]:
    """The line ``why`` of the output that is furthest out of its bound, or none."""
    wrong = [side for side in sides if not side.worst <= 1]
    if not wrong:
        return []
    side = max(wrong, key=lambda side: side.worst)
    within = ", ".join(s.words for s in sides if s not in wrong)
    also = ", ".join(s.words for s in wrong if s is not side)
    more = f"; {within} is within its own" if within else f"; so is {also}"
    place = f"{side.words} is out of its own bound{more}"
    names = causes_of(side, arithmetic)[:_SHOWN]
    if not names:
        return [f"why    {place}; none of the known hypotheses gives it"]
    return [f"why    behaves as if: {'; or '.join(names)} ({place})"]


def causes_of(side: Side, arithmetic: Arithmetic) -> list[str]:
    """Sentences that are true of the whole of an output that is out of its bound."""
    situation = situation_of(side.case, side.data)
    truth, allowed = side.judged.truth["combine"], side.judged.allowed["combine"]
    fits = list[Fit]()
    searched = not too_large(situation.part) and has_lanes(situation.part)
    right, found = 1.0, side.out.double().reshape(truth.shape)
    if searched and found.isfinite().all():
        experts = Experts(situation, arithmetic)
        wrong = wrong_output(found, side.judged, experts)
        right = part_left(found - wrong.right, found - truth, allowed)
        fits += explain_otherwise(wrong, far_numbers(experts))
    known = causes(situation, side.judged, side.out, arithmetic)
    if fits:
        known = [fit for fit in known if fit.family not in _SIZES]
    best = likeliest([*known, *fits], truth.numel(), min(right, 1.0))
    # What is not finite has no likelihood.
    names = [str(fit) for fit in best] or [str(fit) for fit in known]
    return names or rounded_twice(side.out, truth, allowed, arithmetic.output)


def relation(expected: Tensor, found: Tensor, dtype: torch.dtype) -> list[str]:
    """One difference or one factor between [n, h] that are rounded to `dtype`."""
    if found.numel() < _FEWEST or not found.isfinite().all():
        return []
    allowed = half_ulp(expected, dtype) + half_ulp(found, dtype)
    fits = []
    for words, told in _related(expected, found):
        rest = found - told
        room = allowed * (1 + (told / expected.where(expected != 0, 1)).abs()) / 2
        if bool((rest.abs() <= room.clamp(min=_TINY)).all()):
            left = part_left(rest, found - expected, allowed)
            fits.append(Fit(words, left))
    return [str(fit) for fit in likeliest(fits, found.numel())]


def _related(expected: Tensor, found: Tensor) -> Iterator[tuple[str, Tensor]]:
    by = float((found - expected).median())
    if by:
        sign = "more" if by > 0 else "less"
        yield f"{abs(by):.3g} {sign} in every element", expected + by
    for where, mask in (
        ("", torch.ones_like(found, dtype=torch.bool)),
        (" where it is negative", found < 0),
        (" where it is positive", found > 0),
    ):
        size = float(expected[mask].square().sum())
        if not size:
            continue
        factor = float((expected[mask] * found[mask]).sum()) / size
        if factor != 1:
            told = torch.where(mask, factor * expected, expected)
            yield f"its {factor:.4g} times{where}", told
