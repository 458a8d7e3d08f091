"""Why rows of an output are zero: a number that counts slots is taken for a token.

What stores zeros for slots without an expert on this rank, or for rows of padding,
addresses the output by the slot's number, or by its place, and erases a token's row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from mxmoe.conformance.bounds.propagated import Judged
from mxmoe.conformance.why_numbers.honest_size import has_honest_size
from mxmoe.conformance.why_numbers.honest_size import honest_variance
from mxmoe.conformance.why_numbers.honest_size import part_left
from mxmoe.conformance.why_numbers.layer_steps import Fit
from mxmoe.conformance.why_numbers.layer_steps import Situation
from mxmoe.conformance.why_numbers.slots.slot_sources import TILES
from mxmoe.conformance.why_numbers.slots.slot_sources import UNKNOWN
from mxmoe.conformance.why_numbers.slots.slot_sources import padded_places
from mxmoe.reference.types import Arithmetic

Tensor = torch.Tensor

# There are about 2^4 rules: one of them is one of 2^12 sets by chance once in 256
# times, and then the rows that are zero are the right ones all the same.
_FEWEST_SETS = 2.0**12


def explain_erased_rows(
    found: Tensor,
    judged: Judged,
    s: Situation,
    arithmetic: Arithmetic,
    *,
    asked: bool = False,
) -> list[Fit]:
    """The rule by which rows of `found` [t, h] are zero, if that alone is wrong.

    asked : whether another case has one; else few rows do not tell.
    """
    truth, allowed = judged.truth["combine"], judged.allowed["combine"]
    if not len(found) or not found.isfinite().all():
        return []
    bad = ((found - truth).abs() > allowed).any(dim=1)
    zero, due = (found == 0).all(dim=1), (truth.abs() > allowed).any(dim=1)
    if not bad.any() or not zero[bad].all():
        return []
    sets = math.comb(int(due.sum()), int((zero & due).sum()))
    if sets < _FEWEST_SETS and not asked:
        return []
    fits = []
    for words, erased in _rules(s):
        if not torch.equal(erased & due, zero & due):
            continue
        told = torch.where(erased[:, None], 0, truth)
        rest = found - told
        if has_honest_size(rest, honest_variance(told, allowed, arithmetic.output)):
            left = part_left(rest, found - truth, allowed)
            fits.append(Fit(f"output: row n is all zero where {words}", left))
    return fits


def _rules(s: Situation) -> Iterator[tuple[str, Tensor]]:
    """(which rows n, their mask [t])."""
    ids, owned = s.routing.ids.long(), s.shard.expert_range(s.config)
    served = (ids >= owned.start) & (ids < owned.stop)
    mine = torch.where(served, ids, UNKNOWN)
    t, k = ids.shape
    taken = "(its number taken for a token's)"
    kinds = {"has no expert on this rank": ~served, "has no expert (-1)": ids < 0}
    kinds["has an expert of another rank"] = ~served & (ids >= 0)
    seen = list[Tensor]()
    for what, slots in kinds.items():
        if not slots.any() or any(torch.equal(slots, other) for other in seen):
            continue
        seen.append(slots)
        yield f"slot n = token * top_k + slot {what} {taken}", _first(slots, t)
        if k > 1:
            words = f"slot n = slot * t + token {what} {taken}"
            yield words, _first(slots.T, t)
            yield f"a slot of token n {what}", slots.any(dim=1)
    for tile in TILES:
        places = padded_places(mine, tile)[served.flatten()]
        empty = ~torch.isin(torch.arange(t), places)
        words = f"place n is padding, experts padded to tiles of {tile}"
        yield f"{words} (taken for a token)", empty


def _first(slots: Tensor, count: int) -> Tensor:
    """The first of a mask, in order of memory, as many as there are tokens."""
    return slots.flatten()[:count]
