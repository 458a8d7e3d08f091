"""Two outputs that should agree: which is out of its own bound, and how they differ."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mxmoe.conformance.bounds.compare_numbers import compare_numbers
from mxmoe.conformance.bounds.propagated import Judged
from mxmoe.conformance.bounds.propagated import half_ulp
from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.designed import CaseData
from mxmoe.conformance.why_numbers.causes import causes
from mxmoe.conformance.why_numbers.causes import has_lanes
from mxmoe.conformance.why_numbers.expert_content import Experts
from mxmoe.conformance.why_numbers.expert_content import Otherwise
from mxmoe.conformance.why_numbers.honest_size import likeliest
from mxmoe.conformance.why_numbers.honest_size import part_left
from mxmoe.conformance.why_numbers.hypotheses import too_large
from mxmoe.conformance.why_numbers.layer_steps import Fit
from mxmoe.conformance.why_numbers.layer_steps import situation_of
from mxmoe.conformance.why_numbers.otherwise.one_thing import explain_otherwise
from mxmoe.conformance.why_numbers.otherwise.one_thing import wrong_output
from mxmoe.conformance.why_numbers.otherwise.rounded_twice import through_float16
from mxmoe.conformance.why_numbers.pairs.far_numbers import far_numbers
from mxmoe.reference.types import Arithmetic

Tensor = torch.Tensor
_SHOWN = 4
_TINY = torch.finfo(torch.float64).tiny
# Fewer numbers have one difference, or one ratio, by chance.
_FEWEST = 32
# What is made of an output that was rounded is rounded again.
_ROUNDINGS = 2


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


def explain_sides(
    sides: Sequence[Side],
    arithmetic: Arithmetic,
    telling: Sequence[Side] = (),
    *,
    elsewhere: Callable[[], list[str]] = list,
) -> list[str]:
    """The line ``why`` of the output that is furthest out of its bound, or none.

    telling : outputs of the same kind that less is wrong in: what is not true of
    them is not said. elsewhere : sentences that are true of another case, asked for
    where none is of this output.
    """
    wrong = [side for side in sides if not side.worst <= 1]
    if not wrong:
        return []
    side = max(wrong, key=lambda side: side.worst)
    where = place(side, sides)
    names = causes_of(side, arithmetic)
    for other in telling:
        names = _true_of_both(side, names, other, arithmetic)
    names = names or elsewhere()
    if not names:
        return [f"why    {where}; none of the known hypotheses gives it"]
    return [f"why    behaves as if: {'; or '.join(names[:_SHOWN])} ({where})"]


def place(side: Side, sides: Sequence[Side]) -> str:
    """Which of the outputs are out of their bounds, `side` first."""
    others = [s for s in sides if s is not side]
    within = ", ".join(s.words for s in others if s.worst <= 1)
    also = ", ".join(s.words for s in others if not s.worst <= 1)
    more = f"; {within} is within its own" if within else f"; so is {also}"
    return f"{side.words} is out of its own bound{more}"


def _true_of_both(
    side: Side, names: list[str], other: Side, arithmetic: Arithmetic
) -> list[str]:
    """Of `names`, true of `side`, those true of `other`; or `other`'s, likewise."""
    experts = _experts(other, arithmetic)
    hypotheses = [] if experts is None else list(far_numbers(experts))
    # What explains neither is not looked for twice.
    theirs = (
        causes_of(other, arithmetic) if names else _far(other, arithmetic, hypotheses)
    )
    if same := [name for name in names if name in theirs]:
        return same
    # Limits are looked for where the scales of a side lie.
    return _far(side, arithmetic, [h for h in hypotheses if h.name in theirs])


def causes_of(side: Side, arithmetic: Arithmetic) -> list[str]:
    """Sentences that are true of the whole of an output that is out of its bound."""
    experts = _experts(side, arithmetic)
    hypotheses = () if experts is None else far_numbers(experts)
    if far := _far(side, arithmetic, hypotheses):
        return far
    situation = situation_of(side.case, side.data)
    known = causes(situation, side.judged, side.out, arithmetic)
    truth, allowed = side.judged.truth["combine"], side.judged.allowed["combine"]
    names = [str(fit) for fit in known]
    return names or through_float16(side.out, truth, allowed, arithmetic.output)


def _experts(side: Side, arithmetic: Arithmetic) -> Experts | None:
    """The experts of the rank, if hypotheses about them can be searched."""
    situation = situation_of(side.case, side.data)
    if too_large(situation.part) or not has_lanes(situation.part):
        return None
    return Experts(situation, arithmetic)


def _far(
    side: Side, arithmetic: Arithmetic, hypotheses: Iterable[Otherwise]
) -> list[str]:
    """The likeliest of `hypotheses` that are true of the output."""
    experts = _experts(side, arithmetic)
    truth, allowed = side.judged.truth["combine"], side.judged.allowed["combine"]
    found = side.out.detach().cpu().double().reshape(truth.shape)
    if experts is None or not found.isfinite().all():
        return []
    wrong = wrong_output(found, side.judged, experts)
    right = part_left(found - wrong.right, found - truth, allowed)
    fits = explain_otherwise(wrong, hypotheses)
    return [str(fit) for fit in likeliest(fits, truth.numel(), min(right, 1.0))]


def bits_lines(expected: Tensor, found: Tensor, dtype: torch.dtype) -> list[str]:
    """How many elements have other bits, and how far off they are."""
    one, other = (x.detach().cpu().double() for x in (expected, found))
    differ = one != other
    if not differ.any():
        return ["all that differs is the sign of 0"]
    units = (other - one).abs() / (2 * half_ulp(one, dtype))
    most = float(units[differ].max())
    lines = [
        f"other bits: {int(differ.sum())} of {differ.numel()} elements, by at most "
        f"{most:.3g} units in the last place of {str(dtype).removeprefix('torch.')}"
    ]
    names = relation(one, other, dtype)
    return lines + [f"the second output is the first, {'; or '.join(names)}"] * bool(
        names
    )


def relation(expected: Tensor, found: Tensor, dtype: torch.dtype) -> list[str]:
    """One difference or one factor between [n, h] that are rounded to `dtype`."""
    if found.numel() < _FEWEST or not found.isfinite().all():
        return []
    allowed = (half_ulp(expected, dtype) + half_ulp(found, dtype)).clamp(min=_TINY)
    fits = []
    for words, told in _related(expected, found, 1 / allowed**2):
        rest = found - told
        grown = (told / expected.where(expected != 0, 1)).abs().clamp(min=1)
        if bool((rest.abs() <= _ROUNDINGS * allowed * grown).all()):
            fits.append(Fit(words, part_left(rest, found - expected, allowed)))
    return [str(fit) for fit in likeliest(fits, found.numel())]


def _related(
    expected: Tensor, found: Tensor, weights: Tensor
) -> Iterator[tuple[str, Tensor]]:
    """(words, what the second output would be), by weighted least squares."""
    by = float((weights * (found - expected)).sum() / weights.sum())
    sign = "more" if by > 0 else "less"
    yield f"{abs(by):.3g} {sign} in every element", expected + by
    every = torch.ones_like(found, dtype=torch.bool)
    for where, mask in (
        ("", every),
        (" where it is negative", found < 0),
        (" where it is positive", found > 0),
    ):
        inside = weights * mask * expected
        size = float((inside * expected).sum())
        if size:
            factor = float((inside * found).sum()) / size
            told = torch.where(mask, factor * expected, expected)
            yield f"{factor:.4g} times{where}", told
