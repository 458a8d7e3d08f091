"""Why an output is wrong: one thing done otherwise, and where.

A hypothesis is a layer with another content or another step. It is evaluated by slot,
so that it may hold everywhere, or only of some experts, slots, tokens or columns: the
places are read off the damage. It is named if the found output is right for it, there,
down to the bound.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from mxmoe.conformance.bounds import Judged
from mxmoe.conformance.bounds import half_ulp
from mxmoe.conformance.why_numbers.expert_content import RIGHT
from mxmoe.conformance.why_numbers.expert_content import Experts
from mxmoe.conformance.why_numbers.expert_content import Otherwise
from mxmoe.conformance.why_numbers.honest_size import has_honest_size
from mxmoe.conformance.why_numbers.honest_size import honest_variance
from mxmoe.conformance.why_numbers.honest_size import part_left
from mxmoe.conformance.why_numbers.layer_steps import Fit
from mxmoe.conformance.why_numbers.layer_steps import through
from mxmoe.conformance.why_numbers.moved import ranges

Tensor = torch.Tensor

# Of the root mean square of one token's errors, in units of what is allowed: the bound
# is 7.76 standard deviations, so a layer that is right has about an eighth.
_NEAR = 1.0
# A hypothesis that allows more fits anything.
_WIDEST = 16.0
# And of the errors of the right layer there, which are out of bound.
_BETTER = 0.95
# Fewer columns are like those of many a hypothesis.
_FEWEST = 16
_TINY = torch.finfo(torch.float64).tiny
# 2**4 choices of the slots of a token at most.
_SLOTS = 4


@dataclass(frozen=True, kw_only=True)
class Wrong:
    """A wrong output.

    found, truth, right, allowed, bad : [t, h]. slots : [t, k, h], right. What is right
    is rounded where the class rounds, as hypotheses are.
    """

    experts: Experts
    found: Tensor
    truth: Tensor
    right: Tensor
    allowed: Tensor
    bad: Tensor
    slots: Tensor


def wrong_output(found: Tensor, judged: Judged, experts: Experts) -> Wrong:
    """What hypotheses are held against."""
    truth = judged.truth["combine"]
    allowed, slots = judged.allowed["combine"], experts.slots(RIGHT)
    return Wrong(
        experts=experts,
        found=found,
        truth=truth,
        right=slots.sum(dim=1),
        allowed=allowed,
        bad=~((found - truth).abs() <= allowed),
        slots=slots,
    )


def explain_otherwise(wrong: Wrong, hypotheses: Iterable[Otherwise]) -> list[Fit]:
    """Each hypothesis, and the place, under which `wrong.found` is right."""
    if not wrong.found.isfinite().all():
        return []
    ratio = (wrong.found - wrong.right).abs() / wrong.allowed.clamp(min=_TINY)
    worst = _WorstToken(wrong, int(ratio.amax(dim=1).argmax()))
    fits = []
    for hypothesis in hypotheses:
        if not worst.may_be(hypothesis):
            continue
        for where, left in _held(wrong, wrong.experts.slots(hypothesis)):
            fits.append(Fit(hypothesis.name, left, place=where))
            break
    return fits


class _WorstToken:
    """The token that is furthest off, which refutes almost every hypothesis."""

    def __init__(self, wrong: Wrong, token: int) -> None:
        bad = wrong.bad[token]
        if int(bad.sum()) < _FEWEST:
            bad = torch.ones_like(bad)
        self._experts, self._token, self._bad = wrong.experts, token, bad
        self._slots = wrong.slots[token][:, bad]
        right = wrong.right[token, bad]
        self._size = right.norm().clamp(min=_TINY)
        self._allowed = wrong.allowed[token, bad].clamp(min=_TINY)
        self._error = (wrong.found[token, bad] - right) / self._allowed
        self._before = float(self._error.square().mean().sqrt())
        self._chosen = _choices(len(wrong.slots[token]))

    def may_be(self, hypothesis: Otherwise) -> bool:
        """Whether some of the slots as in the hypothesis give what was found."""
        slots = self._experts.slots_of(self._token, hypothesis)
        change = slots[:, self._bad] - self._slots
        size = float(change.norm())
        if not math.isfinite(size) or not size:
            return False
        left = self._error - self._chosen @ (change / self._allowed)
        error = float(left.square().mean(dim=1).amin().sqrt())
        most = _NEAR * (1 + size / float(self._size))
        return error <= min(most, _BETTER * self._before)


def _choices(count: int) -> Tensor:
    """0 or 1 for each of `count` slots: every choice, or the simple ones of many."""
    if count > _SLOTS:
        one = torch.eye(count)
        return torch.cat((torch.ones(1, count), one, 1 - one)).double()
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=count))).double()


def _held(wrong: Wrong, slots: Tensor) -> Iterator[tuple[str, float]]:
    """(where, mean square of what is left) of each place that explains it all."""
    change = slots - wrong.slots
    growth, dtype = 1 + _growth(wrong, change), wrong.experts.arithmetic.output
    room = wrong.allowed * growth
    for where, mask, columns in _places(wrong):
        told = wrong.right + columns * (mask[..., None] * change).sum(dim=1)
        if torch.equal(through(told, dtype=dtype), through(wrong.right, dtype=dtype)):
            # The output's own rounding takes it back, as of one slot of weight 1.
            continue
        rest = wrong.found - told
        if not bool((rest.abs() <= room + half_ulp(told, dtype)).all()):
            continue
        if has_honest_size(rest, honest_variance(told, room, dtype)):
            yield where, part_left(rest, wrong.found - wrong.truth, wrong.allowed)


def _growth(wrong: Wrong, change: Tensor) -> Tensor:
    """How much larger the slots of a token are, [t, 1]: what is allowed grows so."""
    size = wrong.slots.norm(dim=2).clamp(min=_TINY)
    return (change.norm(dim=2) / size).clamp(max=_WIDEST).amax(dim=1, keepdim=True)


def _places(wrong: Wrong) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(words, slots [t, k], columns [h]) that a fault may be confined to."""
    every, columns = (
        torch.ones(wrong.slots.shape[:2]).double(),
        torch.ones(wrong.found.shape[1]),
    )
    yield "", every, columns
    rows, wide = wrong.bad.any(dim=1), wrong.bad.any(dim=0)
    ids = wrong.experts.situation.routing.ids
    visited = [wrong.experts.first + e for e in wrong.experts.visited()]
    suspects = [e for e in visited if rows[(ids == e).any(dim=1)].all()]
    if 0 < len(suspects) < len(visited):
        yield f", in {_experts(suspects)} only", _of(ids, suspects), columns
    for e in suspects if len(visited) > 1 else ():
        yield f", in {_experts([e])} only", _of(ids, [e]), columns
    for e in visited if len(visited) > 2 else ():
        others = [other for other in visited if other != e]
        yield f", in every expert but {e}", _of(ids, others), columns
    if rows.any() and not rows.all():
        only = rows.double()[:, None] * every
        yield f", for {ranges('token', rows)} only", only, columns
    if wide.any() and not wide.all():
        yield f", in {ranges('column', wide)} only", every, wide.double()
    for slot in range(every.shape[1]) if every.shape[1] > 1 else ():
        alone = torch.zeros_like(every)
        alone[:, slot] = 1
        yield f", in slot {slot} only", alone, columns
        yield f", in every slot but {slot}", 1 - alone, columns


def _of(ids: Tensor, experts: list[int]) -> Tensor:
    return torch.isin(ids, torch.tensor(experts, dtype=ids.dtype)).double()


def _experts(experts: list[int]) -> str:
    return f"expert{'s' * (len(experts) > 1)} {', '.join(map(str, experts))}"
