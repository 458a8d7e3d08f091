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

from mxmoe.conformance.bounds.propagated import Judged
from mxmoe.conformance.bounds.propagated import half_ulp
from mxmoe.conformance.why_numbers.expert_content import RIGHT
from mxmoe.conformance.why_numbers.expert_content import Experts
from mxmoe.conformance.why_numbers.expert_content import Otherwise
from mxmoe.conformance.why_numbers.honest_size import has_honest_size
from mxmoe.conformance.why_numbers.honest_size import honest_variance
from mxmoe.conformance.why_numbers.honest_size import likely_share
from mxmoe.conformance.why_numbers.honest_size import part_left
from mxmoe.conformance.why_numbers.layer_steps import Fit
from mxmoe.conformance.why_numbers.layer_steps import through
from mxmoe.conformance.why_numbers.otherwise.confined import Confined
from mxmoe.conformance.why_numbers.otherwise.confined import ConfinedToken
from mxmoe.conformance.why_numbers.otherwise.scopes import COLUMNS
from mxmoe.conformance.why_numbers.otherwise.scopes import SEVERAL
from mxmoe.conformance.why_numbers.otherwise.scopes import SlotScopes
from mxmoe.conformance.why_numbers.otherwise.scopes import few_words
from mxmoe.conformance.why_numbers.otherwise.scopes import number_sets
from mxmoe.conformance.why_numbers.otherwise.scopes import number_words
from mxmoe.conformance.why_numbers.otherwise.scopes import slot_scopes

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
# What is confined to a sixth of the lanes explains about as much of the error when it
# is fitted as if it were in all of them. By chance k slots explain k of h squares, with
# a variance of 2 k; so many standard deviations beyond that are none.
_ALONG = 0.15
_SPREAD = 4.0
_FLAT = 2.0**-30
# Lanes that fit the worst token best, which are held against all.
_CONFINED = 3
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
        found = dict(number_sets("column", count, units=COLUMNS))
        if (
            wide.any()
            and not wide.all()
            and few_words(words := number_words("column", wide))
        ):
            found[words] = wide
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


def explain_otherwise(
    wrong: Wrong,
    hypotheses: Iterable[Otherwise],
    partly: list[Otherwise] | None = None,
) -> list[Fit]:
    """Each hypothesis, and the place, under which `wrong.found` is right.

    partly : those that do something like it are added here, for `explain_confined`.
    """
    if not wrong.found.isfinite().all():
        return []
    worst = _WorstToken(wrong)
    fits = []
    for hypothesis in hypotheses:
        change = worst.change(hypothesis)
        if change is None:
            continue
        held = list[tuple[str, float]]()
        if worst.may_be(change):
            held = list(_held(wrong, wrong.experts.slots(hypothesis)))
            fits += [Fit(hypothesis.name, left, place=where) for where, left in held]
        if partly is not None and not held and worst.tells(change):
            partly.append(hypothesis)
    return fits


def explain_confined(wrong: Wrong, hypotheses: Iterable[Otherwise]) -> list[Fit]:
    """As `explain_otherwise`, in some lanes or K blocks only."""
    if not wrong.found.isfinite().all():
        return []
    worst, fits = _WorstToken(wrong), []
    for hypothesis in hypotheses:
        for confined in worst.confined(hypothesis):
            for where, left in _held(wrong, confined.slots(wrong.experts)):
                inside = f", {confined.words}{where or ' only'}"
                fits.append(Fit(hypothesis.name, left, place=inside))
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
        self._inside = ConfinedToken(wrong.experts, token, bad)
        self._chosen = _choices(len(wrong.slots[token]))

    def change(self, hypothesis: Otherwise) -> Tensor | None:
        """What it does to the slots [k, columns]; None if nothing, or not finite."""
        slots = self._experts.slots_of(self._token, hypothesis)
        change = slots[:, self._bad] - self._slots
        size = float(change.norm())
        return change if math.isfinite(size) and size else None

    def may_be(self, change: Tensor) -> bool:
        """Whether some of the slots, or columns, changed so give what was found."""
        left = (self._error - self._chosen @ (change / self._allowed)).square()
        best = left.sum(dim=1).amin()
        if self._columns.shape[1]:
            before = self._error.square()
            some = before.sum() + (left - before) @ self._columns
            best = torch.minimum(best, some.amin())
        return float(best) <= self._most(float(change.norm()))

    def _most(self, size: float) -> float:
        """The sum of squares that a change of this size may leave."""
        most = min(_NEAR * (1 + size / float(self._size)), _BETTER * self._before)
        return most**2 * len(self._error)

    def tells(self, change: Tensor) -> bool:
        """Whether the error goes along with what the hypothesis does, at least."""
        slots, count = change / self._allowed, len(change)
        gram, along = slots @ slots.T, slots @ self._error
        weak = float(gram.trace()) * _FLAT * torch.eye(count)
        explained = float(along @ torch.linalg.solve(gram + weak, along))
        chance = (count + _SPREAD * math.sqrt(2 * count)) / len(self._error)
        return explained >= max(chance, _ALONG) * float(self._error.square().sum())

    def confined(self, hypothesis: Otherwise) -> list[Confined]:
        """The hypothesis in lanes, or K blocks, of all slots or of one."""
        found = []
        for some, changes in self._inside.changes(hypothesis):
            scaled = changes / self._allowed[:, None]
            error = self._error[:, None]
            left = error - torch.cat((scaled.sum(dim=0, keepdim=True), scaled))
            squares = left.square().sum(dim=1).amin(dim=0)
            for n in squares.argsort()[:_CONFINED].tolist():
                if float(squares[n]) <= self._most(float(changes[..., n].norm())):
                    found.append((float(squares[n]), some[n]))
        found.sort(key=lambda pair: pair[0])
        return [confined for _, confined in found[:_CONFINED]]


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
        variance, there = honest_variance(told, room, dtype), told != wrong.right
        # Of few wrong numbers among many right ones, the wrong ones as well.
        inside = has_honest_size(rest[there], variance[there])
        if inside and has_honest_size(rest, variance):
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
