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
from functools import cached_property

import torch

from mxmoe.conformance.bounds import Judged
from mxmoe.conformance.bounds import half_ulp
from mxmoe.conformance.why_numbers.expert_content import RIGHT
from mxmoe.conformance.why_numbers.expert_content import Experts
from mxmoe.conformance.why_numbers.expert_content import Otherwise
from mxmoe.conformance.why_numbers.honest_size import has_honest_size
from mxmoe.conformance.why_numbers.honest_size import honest_variance
from mxmoe.conformance.why_numbers.honest_size import likely_share
from mxmoe.conformance.why_numbers.honest_size import part_left
from mxmoe.conformance.why_numbers.layer_steps import Fit
from mxmoe.conformance.why_numbers.layer_steps import through
from mxmoe.conformance.why_numbers.scopes import SEVERAL
from mxmoe.conformance.why_numbers.scopes import SlotScopes
from mxmoe.conformance.why_numbers.scopes import number_sets
from mxmoe.conformance.why_numbers.scopes import number_words
from mxmoe.conformance.why_numbers.scopes import slot_scopes
from mxmoe.conformance.why_numbers.slot_sources import TILES

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
# Places that are nearly as likely as the likeliest one; the first are the simplest.
_PLACES = 12
# Mean squares that differ by less are those of the same slots.
_DIGITS = 6
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

    @cached_property
    def worst(self) -> int:
        """The token that is furthest off."""
        ratio = (self.found - self.right).abs() / self.allowed.clamp(min=_TINY)
        return int(ratio.amax(dim=1).argmax())

    @cached_property
    def scopes(self) -> SlotScopes:
        """Slots that a fault may be confined to, which the worst token has some of."""
        ids, served = self.experts.situation.routing.ids, self.experts.served
        return slot_scopes(ids, served, self.bad.any(dim=1), self.worst)

    @cached_property
    def columns(self) -> list[tuple[str, Tensor]]:
        """(words, columns [h]) that a fault may be confined to."""
        wide, count = self.bad.any(dim=0), self.found.shape[1]
        found = dict(number_sets("column", count, units=TILES))
        if wide.any() and not wide.all():
            found[number_words("column", wide)] = wide
        return [(f"in {words} only", mask.double()) for words, mask in found.items()]


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
    worst = _WorstToken(wrong)
    fits = []
    for hypothesis in hypotheses:
        if worst.may_be(hypothesis):
            for where, left in _held(wrong, wrong.experts.slots(hypothesis)):
                fits.append(Fit(hypothesis.name, left, place=where))
    return fits


class _WorstToken:
    """The token that is furthest off, which refutes almost every hypothesis."""

    def __init__(self, wrong: Wrong) -> None:
        token = wrong.worst
        bad = wrong.bad[token]
        if int(bad.sum()) < _FEWEST:
            bad = torch.ones_like(bad)
        self._experts, self._token, self._bad = wrong.experts, token, bad
        self._columns = torch.stack([m[bad] for _, m in wrong.columns], dim=1)
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
        left = (self._error - self._chosen @ (change / self._allowed)).square()
        best = left.sum(dim=1).amin()
        if self._columns.shape[1]:
            before = self._error.square()
            some = before.sum() + (left - before) @ self._columns
            best = torch.minimum(best, some.amin())
        error = math.sqrt(max(float(best) / len(self._error), 0.0))
        most = _NEAR * (1 + size / float(self._size))
        return error <= min(most, _BETTER * self._before)


def _choices(count: int) -> Tensor:
    """0 or 1 for each of `count` slots: every choice, or the simple ones of many."""
    if count > _SLOTS:
        one = torch.eye(count)
        return torch.cat((torch.ones(1, count), one, 1 - one)).double()
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=count))).double()


def _held(wrong: Wrong, slots: Tensor) -> Iterator[tuple[str, float]]:
    """(where, mean square of what is left) of the simplest place that explains it all.

    Several, if what they say is the same here.
    """
    change = slots - wrong.slots
    growth, dtype = 1 + _growth(wrong, change), wrong.experts.arithmetic.output
    room = wrong.allowed * growth
    best = math.inf
    for level, where, told in _likeliest_places(wrong, change):
        if level > best:
            return
        if torch.equal(through(told, dtype=dtype), through(wrong.right, dtype=dtype)):
            # The output's own rounding takes it back, as of one slot of weight 1.
            continue
        rest = wrong.found - told
        if not bool((rest.abs() <= room + half_ulp(told, dtype)).all()):
            continue
        if has_honest_size(rest, honest_variance(told, room, dtype)):
            best = level if level >= SEVERAL else -1
            yield where, part_left(rest, wrong.found - wrong.truth, wrong.allowed)


def _likeliest_places(
    wrong: Wrong, change: Tensor
) -> Iterator[tuple[int, str, Tensor]]:
    """(level, words, output) of places where little is left, simplest first."""
    size = wrong.allowed.clamp(min=_TINY)
    error, by_slot = (wrong.found - wrong.right) / size, change / size[:, None]
    whole = change.sum(dim=1)
    scopes, left = wrong.scopes, wrong.scopes.squares(error, by_slot)
    of_columns = ((error - whole / size).square() - error.square()).sum(dim=0)
    masks = torch.stack([mask for _, mask in wrong.columns])
    left_of_columns = float(error.square().sum()) + masks @ of_columns
    share = likely_share(wrong.found.numel())
    # Roundings of the class itself are left in any case.
    most = float(min(left.min(), left_of_columns.min())) / share + _TINY
    places = [
        (scopes.level[n], round(float(left[n]) / most, _DIGITS), n, -1)
        for n in (left <= most).nonzero()[:, 0].tolist()
    ]
    places += [
        (1, round(float(left_of_columns[n]) / most, _DIGITS), n, n)
        for n in (left_of_columns <= most).nonzero()[:, 0].tolist()
    ]
    for level, _, n, column in sorted(places)[:_PLACES]:
        if column < 0:
            words, mask = scopes.words[n], scopes.masks[n]
            told = wrong.right + (mask[..., None] * change).sum(dim=1)
        else:
            words, mask = wrong.columns[column]
            told = wrong.right + mask * whole
        yield level, f", {words}" if words else "", told


def _growth(wrong: Wrong, change: Tensor) -> Tensor:
    """How much larger the slots of a token are, [t, 1]: what is allowed grows so."""
    size = wrong.slots.norm(dim=2).clamp(min=_TINY)
    return (change.norm(dim=2) / size).clamp(max=_WIDEST).amax(dim=1, keepdim=True)
