"""Why an output is wrong: the weights with which its slots were added.

Every token's output is a sum of few known vectors, the `down` of its slots. Fitting
their weights to what was found (least squares, a handful of unknowns to h numbers)
tells slots that are missing, weights of other slots and factors on experts from all
that happens inside of an expert, which leaves a rest that no weights explain.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch

from mxmoe.conformance.bounds.propagated import Judged
from mxmoe.conformance.bounds.propagated import half_ulp
from mxmoe.conformance.why_numbers.honest_size import part_left
from mxmoe.conformance.why_numbers.layer_steps import Fit
from mxmoe.conformance.why_numbers.moved import ranges
from mxmoe.reference.types import Arithmetic
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Routing
from mxmoe.reference.types import Shard

# A weight is told from another if they differ by this part of the given one.
TOLD = 0.02
# Slots that are asked for by pairs.
_PAIRED = 8
# And a factor on all of an expert's slots from 1.
_TOLD_OF_ALL = 2.0**-7


@dataclass(frozen=True, kw_only=True, eq=False)
class Slots:
    """The slots of one rank.

    found : [t, h]. down, allowed : truth and bound [t, k, h]. weights : [t, k], 0
    where this rank does not serve a slot. ids : [t, k].
    """

    found: torch.Tensor
    down: torch.Tensor
    allowed: torch.Tensor
    weights: torch.Tensor
    ids: torch.Tensor
    arithmetic: Arithmetic

    def give(self, weights: torch.Tensor) -> bool:
        """Whether slots added with `weights` [t, k] are what was found."""
        total = torch.einsum("tk,tkh->th", weights, self.down)
        allowed = torch.einsum("tk,tkh->th", weights.abs(), self.allowed)
        rounding = half_ulp(total.abs() + allowed, self.arithmetic.output)
        return bool(((self.found - total).abs() <= allowed + rounding).all())

    def left(self, weights: torch.Tensor) -> float:
        """The part of the mean square of the errors that `weights` leave."""
        size = torch.einsum("tk,tkh->th", self.weights.abs(), self.allowed)
        size = size + half_ulp(self.found, self.arithmetic.output)
        after, before = (
            self.found - torch.einsum("tk,tkh->th", w, self.down)
            for w in (weights, self.weights)
        )
        return part_left(after, before, size)

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """As `_factors`."""
        return self._factors

    @cached_property
    def _factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(what each given weight was multiplied by, how far that is known), [t, k]."""
        sums = self.weights[..., None] * self.down
        size = (self.weights[..., None] * self.allowed).sum(dim=1)
        size = size + half_ulp(self.found.abs() + size, self.arithmetic.output)
        size = size.clamp(min=torch.finfo(torch.float32).tiny)
        inverse = torch.linalg.pinv((sums / size[:, None]).mT)
        factors = torch.einsum("tkh,th->tk", inverse, self.found / size)
        return factors, inverse.square().sum(dim=2).sqrt()


def slots_of(
    found: torch.Tensor,
    judged: Judged,
    routing: Routing,
    config: MoEConfig,
    shard: Shard,
    arithmetic: Arithmetic,
) -> Slots:
    """The slots that a rank serves, and the output found of it."""
    owned = shard.expert_range(config)
    served = (routing.ids >= owned.start) & (routing.ids < owned.stop)
    return Slots(
        found=found,
        down=judged.truth["down"],
        allowed=judged.allowed["down"],
        weights=torch.where(served, routing.weights.double(), 0),
        ids=routing.ids,
        arithmetic=arithmetic,
    )


def explain_slots(slots: Slots) -> list[Fit]:
    """Sentences about weights under which `slots` give what was found."""
    return fits_of_weights(slots, _readings)


def fits_of_weights(
    slots: Slots, read: Callable[[Slots], Iterator[tuple[str, torch.Tensor]]]
) -> list[Fit]:
    """Those of `read` (words, weights [t, k]) that give what was found."""
    if not slots.found.numel() or not slots.found.isfinite().all():
        return []
    if not slots.weights.any():
        return []
    return [
        Fit(name, slots.left(weights))
        for name, weights in read(slots)
        if _differ(weights, slots.weights) and slots.give(weights)
    ]


def fitted_slots(slots: Slots) -> list[Fit]:
    """The weights that fit best, if they give what was found: no cause, but a place."""
    if not slots.found.numel() or not slots.found.isfinite().all():
        return []
    if not slots.weights.any():
        return []
    factors, known = slots.factors()
    known = known.clamp(min=TOLD)
    weights = factors * slots.weights
    off = ((factors - 1).abs() > known) & (slots.weights != 0)
    if not off.any() or not slots.give(weights):
        return []
    words = f"slots added with other weights: {_weights_shown(slots, weights, off)}"
    return [Fit(words, slots.left(weights))]


def _differ(weights: torch.Tensor, given: torch.Tensor) -> bool:
    """Whether it is another weighting at all, and not a rounding of the given one."""
    return bool(((weights - given).abs() > _TOLD_OF_ALL * given.abs()).any())


def _readings(slots: Slots) -> Iterator[tuple[str, torch.Tensor]]:
    """What is done to weights in the field, and what the fitted ones look like."""
    given, k = slots.weights, slots.weights.shape[1]
    for by in range(1, k):
        yield f"routing weights shifted by {by} slots", given.roll(by, 1)
    if k > 1:
        yield "every slot has the weight of the first", given[:, :1].expand_as(given)
        yield "routing weights of the token before", given.roll(1, 0)
    for twice, never in itertools.permutations(range(min(k, _PAIRED)), 2):
        counted = given.clone()
        counted[:, twice] *= 2
        yield f"slot {twice} added twice", counted
        only = counted.clone()
        only[:, never] = 0
        yield f"slot {twice} added twice and slot {never} never", only
    total = given.sum(dim=1, keepdim=True)
    normal = torch.where(total > 0, given / total, 0)
    yield "routing weights of this rank's slots normalised to a sum of 1", normal
    yield from _by_expert(slots)
    yield from _by_slot(slots)
    yield from _by_token(slots)


def _by_expert(slots: Slots) -> Iterator[tuple[str, torch.Tensor]]:
    factors, known = slots.factors()
    weights, named = slots.weights.clone(), []
    for expert in slots.ids[slots.weights != 0].unique().tolist():
        at = (slots.ids == expert) & (slots.weights != 0)
        trust = 1 / known[at] ** 2
        factor = float((trust * factors[at]).sum() / trust.sum())
        known_to = max(_TOLD_OF_ALL, float(trust.sum().rsqrt()))
        if abs(factor) <= known_to:
            # It adds nothing: said already, in better words.
            return
        if abs(factor - 1) > known_to:
            weights[at] *= factor
            named.append(f"expert {expert}'s contribution times {factor:.3g}")
    if 0 < len(named) <= 4:
        yield ", ".join(named), weights


def _by_slot(slots: Slots) -> Iterator[tuple[str, torch.Tensor]]:
    """One factor on the same slot of every token."""
    factors, known = slots.factors()
    count = slots.weights.shape[1]
    for slot in range(count if count > 1 else 0):
        served = slots.weights[:, slot] != 0
        if int(served.sum()) < 2:
            continue
        trust = 1 / known[served, slot] ** 2
        factor = float((trust * factors[served, slot]).sum() / trust.sum())
        if abs(factor) > _TOLD_OF_ALL and abs(factor - 1) > _TOLD_OF_ALL:
            weights = slots.weights.clone()
            weights[:, slot] *= factor
            yield f"slot {slot}'s contribution times {factor:.3g}", weights


def _by_token(slots: Slots) -> Iterator[tuple[str, torch.Tensor]]:
    factors, known = slots.factors()
    known = known.clamp(min=TOLD)
    trust = torch.where(slots.weights != 0, 1 / known**2, 0)
    size = trust.sum(dim=1, keepdim=True)
    factor = torch.where(size > 0, (trust * factors).sum(dim=1, keepdim=True) / size, 1)
    off = ((factor - 1).abs() > TOLD)[:, 0]
    if int(off.sum()) > 0:
        low, high = float(factor[off].min()), float(factor[off].max())
        which = ranges("token", off)
        words = f"{low:.3g}" if high - low < TOLD else f"{low:.3g} to {high:.3g}"
        scaled = torch.where(off[:, None], factor, 1) * slots.weights
        yield f"all slots of {which} times {words}, one factor a token", scaled


def _weights_shown(slots: Slots, weights: torch.Tensor, off: torch.Tensor) -> str:
    token = int(off.any(dim=1).int().argmax())
    pairs = [
        ", ".join(f"{w:.3g}" for w in row[token].tolist())
        for row in (slots.weights, weights)
    ]
    count = int(off.any(dim=1).sum())
    return (
        f"token {token} was given [{pairs[0]}] and has [{pairs[1]}]; "
        f"{count} of {len(off)} tokens"
    )
