"""Why an output is wrong: slots that take the row of another slot or token.

Rows are taken at these places: hidden states by GEMM1, the intermediate by GEMM2, the
results and the routing weights by the sum over slots. For each place what every row
would give is computed once; then an index map costs no more than taking other rows.
Where no map fits, the rows that single tokens were given are read off.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from mxmoe.conformance.bounds.propagated import half_ulp
from mxmoe.conformance.why_numbers.expert_content import RIGHT
from mxmoe.conformance.why_numbers.honest_size import has_honest_size
from mxmoe.conformance.why_numbers.honest_size import honest_variance
from mxmoe.conformance.why_numbers.honest_size import part_left
from mxmoe.conformance.why_numbers.layer_steps import Fit
from mxmoe.conformance.why_numbers.otherwise.one_thing import Wrong
from mxmoe.conformance.why_numbers.slots.expert_rows import rows_in_another_order
from mxmoe.conformance.why_numbers.slots.index_numbers import index_numbers
from mxmoe.conformance.why_numbers.slots.index_numbers import slots_of_tokens
from mxmoe.conformance.why_numbers.slots.slot_sources import slot_sources
from mxmoe.conformance.why_numbers.slots.slot_sources import token_sources

Tensor = torch.Tensor
_TINY = torch.finfo(torch.float64).tiny
# Elements of a table of every row with every expert; more would take a second.
_LARGEST = 2**23
# A map of which more slots lie beyond the buffer tells little.
_UNKNOWN = 0.25
# What is allowed grows with the rows taken, but not so far that anything fits.
_WIDEST = 16.0
# Pairs of rows that are held against as many others, and tokens for which that is done.
_PAIRS = 2048
_TOKENS = 8
_SHOWN = 3
_SUM = "the sum over slots"
_NUMBERS = {
    "n": "n = token * top_k + slot",
    "p": "p = its position sorted by expert",
    "r": "r = its row of its expert",
    "q": "q = its position where each expert is padded to whole tiles",
}


@dataclass(frozen=True)
class _Place:
    """rows : what each row makes of each slot's expert, [n, e, h]. own : [t, k].

    sources : (words, where alone, the rows [t * k] that slots take). weighs : the
    routing weight is taken from there. stays : the row is not.
    """

    taker: str
    thing: str
    rows: Tensor
    own: Tensor
    sources: list[tuple[str, str, Tensor]]
    weighs: bool = False
    stays: bool = False

    def taken(
        self, wrong: Wrong, source: Tensor, at: int | slice = slice(None)
    ) -> Tensor:
        """What slots [t, k] add that take rows `source` [t, k]: [t, k, h].

        at : of one token, whose slots take `source` [m, k] in turn: [m, k, h].
        """
        experts = wrong.experts
        weights = experts.weights[at]
        if self.weighs:
            # Those of slots without an expert are read like any other.
            given = experts.situation.routing.weights.double().flatten()
            weights = torch.where(weights != 0, given[source], 0)
        taken = self.own[at] if self.stays else source
        if self.rows.shape[1] == 1:
            rows = self.rows[taken, 0]
        else:
            local = experts.situation.routing.ids[at].long() - experts.first
            rows = self.rows[taken, local.clamp(0, experts.count - 1)]
        return weights[..., None] * rows


@dataclass(frozen=True)
class _Mapped:
    """A map under which the output is right. left : part of the mean square error."""

    place: _Place
    name: str
    where: str
    left: float


def places_of(wrong: Wrong) -> list[_Place]:
    """Where rows are taken; none if they are too many."""
    experts = wrong.experts
    count, h = wrong.slots.shape[0] * wrong.slots.shape[1], wrong.found.shape[1]
    if len(wrong.found) < 2 or count * experts.count * h > _LARGEST:
        return []
    return list(_places(wrong))


def explain_gathers(wrong: Wrong, places: list[_Place]) -> list[Fit]:
    """Each index map under which the output is right."""
    return _named([one for place in places for one in _mapped(wrong, place)])


def explain_taken(wrong: Wrong, places: list[_Place]) -> list[Fit]:
    """The rows that GEMM1 or GEMM2 took, read off, whatever the map."""
    if not wrong.found.isfinite().all():
        return []
    return [fit for place in places[:2] for fit in _read_off(wrong, place)]


def _places(wrong: Wrong) -> Iterator[_Place]:
    experts, s = wrong.experts, wrong.experts.situation
    ids, x = s.routing.ids, s.hidden_states.double()
    t, k = ids.shape
    n = torch.arange(t * k).reshape(t, k)
    one = torch.ones(1, 1, dtype=torch.float64)
    contents = [experts.content(e) for e in range(experts.count)]
    made = [experts.rows(c, RIGHT.steps, x, one) for c in contents]
    by_token = torch.stack(made, dim=1)
    own = n // k
    ordered = list(rows_in_another_order(ids))
    tokens = [(words, "", source) for words, source in token_sources(ids, x.shape[1])]
    tokens += [(words, where, source // k) for words, where, source in ordered]
    yield _Place("GEMM1", "the hidden states", by_token, own, tokens)
    between = torch.zeros(t, k, contents[0].down.dense.shape[1]).double()
    for e in experts.visited():
        mine = ids - experts.first == e
        rows = x[mine.nonzero()[:, 0]]
        between[mine] = experts.intermediate(contents[e], RIGHT.steps, rows)
    flat = between.flatten(0, 1)
    by_slot = torch.stack([experts.down(c, flat) for c in contents], dim=1)
    mine = torch.where(experts.served, ids, -1)
    slots = [
        (words, "", source)
        for words, source in (
            *slot_sources(ids),
            *index_numbers(ids),
            *slots_of_tokens(mine, s.routing.weights),
        )
    ]
    slots += ordered
    yield _Place("GEMM2", "the intermediate", by_slot, n, slots)
    local = (ids.long() - experts.first).clamp(0, experts.count - 1)
    served = (experts.weights != 0)[..., None]
    results = torch.where(served, by_token[own, local], 0).flatten(0, 1)
    results = results[:, None]
    adding = partial(_Place, _SUM, rows=results, own=n, sources=slots)
    yield adding("the result")
    yield adding("the weight", weighs=True, stays=True)
    yield adding("the weighted result", weighs=True)


def _named(mapped: list[_Mapped]) -> list[Fit]:
    """One sentence a map, also where several places may be the one that uses it."""
    fits = []
    for name, where in dict.fromkeys((one.name, one.where) for one in mapped):
        alike = [one for one in mapped if (one.name, one.where) == (name, where)]
        places = [one.place for one in alike]
        takers = " or ".join(dict.fromkeys(p.taker for p in places))
        if len(places) > 1 and places[-1].taker == _SUM:
            takers += " (the gather or the un-permute)"
        thing = f"{places[0].thing} of " if len(places) == 1 else ""
        words = f"{takers} takes {thing}{name}, not its own{meanings(name)}"
        fits.append(Fit(words, min(one.left for one in alike), place=where))
    return fits


def _mapped(wrong: Wrong, place: _Place) -> Iterator[_Mapped]:
    """The maps under which the output is right."""
    finite, bad = wrong.found.isfinite().all(dim=1), wrong.bad.any(dim=1)
    served = wrong.experts.weights != 0
    for name, where, flat in _likely(wrong, place):
        source = flat.reshape(place.own.shape)
        beyond = (source < 0) & served
        known = ~beyond.any(dim=1)
        other = ((source != place.own) & served).any(dim=1)
        if not bool((known & other).any()) or bool((~finite & known).any()):
            continue
        # What is wrong would all lie beyond the buffer: anything explains that.
        if not bool((known & bad).any()):
            continue
        if float(beyond.double().mean()) > _UNKNOWN:
            continue
        left = rest_of_error(wrong, place.taken(wrong, source.clamp(min=0)), known)
        if left is not None:
            yield _Mapped(place, name, where, left)


def _likely(wrong: Wrong, place: _Place) -> list[tuple[str, str, Tensor]]:
    """The sources that the worst finite token does not refute."""
    ratio = (wrong.found - wrong.right).abs() / wrong.allowed.clamp(min=_TINY)
    finite = wrong.found.isfinite().all(dim=1)
    token = int(ratio.amax(dim=1).where(finite, -1.0).argmax())
    every = torch.stack([flat for _, _, flat in place.sources])
    source = every.unflatten(1, place.own.shape)[:, token]
    served = wrong.experts.weights[token] != 0
    slots = place.taken(wrong, source.clamp(min=0), token)
    told = slots.sum(dim=1)
    room = wrong.allowed[token] * (1 + _growth(wrong, slots, token))
    room = room + half_ulp(told, wrong.experts.arithmetic.output)
    within = ((wrong.found[token] - told).abs() <= room).all(dim=1)
    likely = within | ((source < 0) & served).any(dim=1)
    return [place.sources[n] for n in likely.nonzero()[:, 0].tolist()]


def meanings(name: str) -> str:
    """What the letters of `name` mean."""
    letters = [meaning for n, meaning in _NUMBERS.items() if n in name.split()]
    return f" ({', '.join(letters)})" if letters else ""


def rest_of_error(wrong: Wrong, slots: Tensor, at: Tensor) -> float | None:
    """The part of the error that `slots` [t, k, h] leave of tokens `at`, or None."""
    found, told = wrong.found[at], slots[at].sum(dim=1)
    dtype = wrong.experts.arithmetic.output
    room = wrong.allowed[at] * (1 + _growth(wrong, slots)[at])
    rest, rounding = found - told, half_ulp(told, dtype)
    if not bool((rest.abs() <= room + rounding).all()):
        return None
    # What is taken may be far larger than what is allowed for the right row.
    if not has_honest_size(rest, honest_variance(told, room.maximum(rounding), dtype)):
        return None
    return part_left(rest, found - wrong.truth[at], wrong.allowed[at])


def _growth(wrong: Wrong, slots: Tensor, at: int | slice = slice(None)) -> Tensor:
    """[t, 1] of slots [t, k, h], or [m, 1] of those of one token [m, k, h]."""
    size = wrong.slots[at].norm(dim=-1).clamp(min=_TINY)
    change = (slots - wrong.slots[at]).norm(dim=-1)
    served = wrong.experts.weights[at] != 0
    grown = torch.where(served, change / size, 0).clamp(max=_WIDEST)
    return grown.amax(dim=1, keepdim=True)


def _read_off(wrong: Wrong, place: _Place) -> Iterator[Fit]:
    bad = wrong.bad.any(dim=1).nonzero()[:_TOKENS, 0].tolist()
    source = place.own.clone()
    for token in bad:
        taken = _rows_of(wrong, place, token)
        if taken is None:
            return
        source[token] = taken
    at = torch.zeros(len(wrong.found), dtype=torch.bool)
    at[bad] = True
    other = (source != place.own) & (wrong.experts.weights != 0)
    if not other.any():
        return
    left = rest_of_error(wrong, place.taken(wrong, source), at)
    if left is not None:
        k = wrong.slots.shape[1]
        shown = [
            f"slot {s} of token {t} that of {_row(place, int(source[t, s]), k)}"
            for t, s in other.nonzero()[:_SHOWN].tolist()
        ]
        yield Fit(
            f"{place.taker} takes {place.thing} of others: {', '.join(shown)}", left
        )


def _row(place: _Place, n: int, k: int) -> str:
    if len(place.rows) == len(place.own):
        return f"token {n}"
    return f"slot {n % k} of token {n // k}"


def _rows_of(wrong: Wrong, place: _Place, token: int) -> Tensor | None:
    """The rows [k] whose sum is what was found of `token`, or None."""
    experts = wrong.experts
    ids, weights = experts.situation.routing.ids, experts.weights[token]
    room = wrong.allowed[token].clamp(min=_TINY)
    choices, given = list[Tensor](), list[Tensor]()
    for slot, e in enumerate(ids[token].tolist()):
        mine = place.own[token, slot : slot + 1]
        if weights[slot] != 0:
            mine = torch.arange(len(place.rows))
            if len(place.rows) != len(ids):
                mine = (ids.flatten() == e).nonzero()[:, 0]
        local = min(max(e - experts.first, 0), experts.count - 1)
        choices.append(mine)
        given.append(weights[slot] * place.rows[mine, local] / room)
    half = (len(given) + 1) // 2
    one, two = _sums(given[:half]), _sums(given[half:])
    if one is None or two is None:
        return None
    rest = wrong.found[token] / room - two
    apart = torch.cdist(rest[None], one[None])[0]
    best = int(apart.argmin())
    places = np.unravel_index(best % len(one), [len(c) for c in choices[:half]])
    if half < len(choices):
        places += np.unravel_index(best // len(one), [len(c) for c in choices[half:]])
    return torch.stack([c[p] for c, p in zip(choices, places, strict=True)])


def _sums(given: list[Tensor]) -> Tensor | None:
    """Every sum of one row of each, [n, h], the last varying fastest."""
    total = torch.zeros(1, 1).double()
    for rows in given:
        if len(total) * len(rows) > _PAIRS:
            return None
        total = (total[:, None] + rows).flatten(0, 1)
    return total
