"""Why an output is wrong: slots that are left out, or added twice."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from collections.abc import Sequence

import torch

from mxmoe.conformance.why_numbers.layer_steps import Fit
from mxmoe.conformance.why_numbers.moved import ranges
from mxmoe.conformance.why_numbers.slots.left_out import LeftOut
from mxmoe.conformance.why_numbers.slots.scaled_slots import TOLD
from mxmoe.conformance.why_numbers.slots.scaled_slots import Slots
from mxmoe.conformance.why_numbers.slots.scaled_slots import fits_of_weights
from mxmoe.conformance.why_numbers.slots.slot_sources import last_slots
from mxmoe.conformance.why_numbers.slots.slot_sources import sets_of_rows
from mxmoe.conformance.why_numbers.slots.slot_sources import tiles_that_are_not_full

Tensor = torch.Tensor

_LISTED = re.compile(r"left out: \d+ of \d+ slots, first .*")

# A rule that says how many slots are gone holds for one of the sets of as many.
_FEWEST_SETS = 8
# So many slots on each side: the heaviest of 2 n in n are told by chance once in 70.
_FEWEST = 4
# Of an expert, which by chance has seldom fewer.
_FEW = 8
# A factor that is known to less than half of 1 tells 0 from 1, and 1 from 2.
_TELLS = 0.5


def explain_left_out(slots: Slots) -> list[Fit]:
    """Slots that add nothing, or twice, if all others add what they should."""
    fits = fits_of_weights(slots, _left_out) or fits_of_weights(slots, _twice)
    # Tokens that are zero are told by the output.
    return [fit for fit in fits if not fit.name.startswith("left out: token")]


def only_listed(fits: Sequence[Fit]) -> bool:
    """Whether `fits` say which slots are left out, and no rule of them."""
    return bool(fits) and all(_LISTED.fullmatch(fit.name) for fit in fits)


def _left_out(slots: Slots) -> Iterator[tuple[str, Tensor]]:
    gone, known = _times(slots, 0)
    served = slots.weights != 0
    kept = torch.where(gone, 0, slots.weights)
    if not gone.any():
        return
    words = _which(slots, gone, served)
    if few := _of_few_rows(slots.ids, gone, served):
        words.append(few)
    if not words and gone.shape[1] > 1 and (which := _tokens(gone, served)):
        words = [which]
    if not words:
        left = LeftOut(ids=slots.ids, gone=gone, known=known, served=served)
        rules = list(left.rules())
        for rule, cause, these in rules:
            yield f"left out: {rule}{cause}", torch.where(these, 0, slots.weights)
        words = [] if rules else [_listed(slots, gone, served)]
    if int(gone.sum()) == 1:
        there = gone.flatten().tolist()
        last = [name for name, n in last_slots(slots.ids, served) if there[n]]
        if last and _capacity(slots, gone, served) is None:
            words = []
        words += last
    for which in words:
        yield f"left out: {which}", kept


def _twice(slots: Slots) -> Iterator[tuple[str, Tensor]]:
    """Slots that are added twice by a rule."""
    more, known = _times(slots, 2)
    served = slots.weights != 0
    if not more.any():
        return
    if _which(slots, more, served) or _tokens(more, served):
        # It is a factor on these, which is said elsewhere.
        return
    rules = LeftOut(ids=slots.ids, gone=more, known=known, served=served).rules()
    for rule, _, these in rules:
        yield f"added twice: {rule}", torch.where(these, 2, 1) * slots.weights


def _times(slots: Slots, factor: float) -> tuple[Tensor, Tensor]:
    """(slots [t, k] that count `factor` times and not once, those that tell)."""
    factors, known = slots.factors()
    room = known.clamp(min=TOLD)
    off = ((factors - factor).abs() <= room) & ((factors - 1).abs() > room)
    return off & (slots.weights != 0), known < _TELLS


def _which(slots: Slots, gone: Tensor, served: Tensor) -> list[str]:
    """What few words say: one rule, or those of an expert's rows that are all true."""
    if words := _whole(slots, gone, served):
        return [words]
    capacity = _capacity(slots, gone, served)
    if capacity is None:
        return list(sets_of_rows(slots.ids, gone, served))[:1]
    words = f"the tokens of an expert after its first {capacity}"
    return [words, *tiles_that_are_not_full(slots.ids, gone, served)]


def _whole(slots: Slots, gone: Tensor, served: Tensor) -> str:
    """Whole experts, slots, or those that are light; or ""."""
    if torch.equal(gone, served):
        return "every slot"
    experts = slots.ids[gone].unique()
    whole = torch.equal(gone, served & torch.isin(slots.ids, experts))
    if whole and len(experts) <= 4:
        named = ", ".join(str(e) for e in experts.tolist())
        return f"all of expert{'s' * (len(experts) > 1)} {named}"
    least = int(experts[0])
    if torch.equal(gone, served & (slots.ids >= least)):
        others = slots.ids[served & (slots.ids < least)]
        return f"all of the experts from {_roundest(int(others.max()), least)} on"
    light = slots.weights.masked_fill(~served, torch.inf).amin(dim=1, keepdim=True)
    if torch.equal(gone, served & (slots.weights == light)):
        return "each token's slot with the smallest routing weight"
    for slot in range(gone.shape[1]):
        alone = torch.zeros_like(gone)
        alone[:, slot] = served[:, slot]
        if torch.equal(gone, alone):
            return f"slot {slot} of each token"
    return _some_slots(gone, served) or _lighter(slots.weights, gone, served)


def _of_few_rows(ids: Tensor, gone: Tensor, served: Tensor) -> str:
    """Whether it is all of the experts with few slots; or ""."""
    experts, counts = ids[served].unique(return_counts=True)
    most = int(counts[torch.isin(experts, ids[gone])].max())
    few = experts[counts <= most]
    if most > _FEW or not torch.equal(gone, served & torch.isin(ids, few)):
        return ""
    return f"those of experts of at most {most} slots"


def _some_slots(gone: Tensor, served: Tensor) -> str:
    """Slots of each token from one on, or before one; or ""."""
    for slot in range(1, gone.shape[1]):
        late = torch.arange(gone.shape[1]) >= slot
        for words, which in ((f"from {slot} on", late), (f"before {slot}", ~late)):
            if torch.equal(gone, served & which):
                return f"the slots {words} of each token"
    return ""


def _lighter(weights: Tensor, gone: Tensor, served: Tensor) -> str:
    """What is below a routing weight, if it is no more than a few that are; or ""."""
    stay = served & ~gone
    if int(gone.sum()) < _FEWEST or int(stay.sum()) < _FEWEST:
        return ""
    sizes = weights.abs()
    below, above = float(sizes[gone].max()), float(sizes[stay].min())
    if below >= above:
        return ""
    return f"those of a routing weight below a number from {below:.3g} to {above:.3g}"


def _tokens(gone: Tensor, served: Tensor) -> str:
    """Whole tokens; or ""."""
    tokens = gone.any(dim=1)
    whole = torch.equal(gone, served & tokens[:, None])
    return ranges("token", tokens) if whole else ""


def _listed(slots: Slots, gone: Tensor, served: Tensor) -> str:
    if tokens := _tokens(gone, served):
        return tokens
    first = ", ".join(
        f"expert {int(slots.ids[t, k])} of token {t}"
        for t, k in gone.nonzero()[:3].tolist()
    )
    return f"{int(gone.sum())} of {int(served.sum())} slots, first {first}"


def _roundest(below: int, last: int) -> int:
    """Of the numbers above `below` up to `last`, the multiple of the most twos."""
    step = 1
    while last // (2 * step) * 2 * step > below:
        step *= 2
    return last // step * step


def _capacity(slots: Slots, gone: Tensor, served: Tensor) -> int | None:
    """n, if of each expert exactly the visits after the first n are gone.

    Of two slots one is the later one half of the time, so these tell nothing.
    """
    if math.comb(int(served.sum()), int(gone.sum())) < _FEWEST_SETS:
        return None
    counts = set[int]()
    for expert in slots.ids[gone].unique():
        visits = gone[served & (slots.ids == expert)]
        first = int(visits.int().argmax())
        if not visits[first:].all():
            return None
        counts.add(first)
    if len(counts) != 1 or counts == {0}:
        return None
    (most,) = counts
    _, visits = slots.ids[served].unique(return_counts=True)
    late = int((visits - most).clamp(min=0).sum())
    return most if late == int(gone.sum()) else None
