"""Why tokens from some number on are wrong: a chunk of them uses what an earlier has.

A long batch runs in chunks of some tokens. Counts, ids or weights of the first chunk,
or of the one before, may be used again; the first chunk is right.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from mxmoe.conformance.bounds.propagated import Judged
from mxmoe.conformance.bounds.propagated import half_ulp
from mxmoe.conformance.bounds.propagated import judge_rank
from mxmoe.conformance.why_numbers.honest_size import has_honest_size
from mxmoe.conformance.why_numbers.honest_size import honest_variance
from mxmoe.conformance.why_numbers.honest_size import part_left
from mxmoe.conformance.why_numbers.layer_steps import Fit
from mxmoe.conformance.why_numbers.layer_steps import Situation
from mxmoe.conformance.why_numbers.slots.slot_sources import UNKNOWN
from mxmoe.reference.types import Arithmetic
from mxmoe.reference.types import Routing

Tensor = torch.Tensor

# Tokens that run at a time.
_CHUNKS = (8, 16, 32, 64, 128, 256, 512)


def explain_chunks(
    found: Tensor, judged: Judged, s: Situation, arithmetic: Arithmetic
) -> list[Fit]:
    """What of an earlier chunk makes `found` [t, h] right."""
    truth, allowed = judged.truth["combine"], judged.allowed["combine"]
    bad = ((found - truth).abs() > allowed).any(dim=1)
    if not bad.any() or not found.isfinite().all():
        return []
    first, fits = int(bad.int().argmax()), []
    for size in _CHUNKS:
        if first < size:
            continue
        late = torch.arange(len(found)) >= size
        for words, routing in _edits(s, size):
            used = Routing(routing.ids[late], routing.weights[late])
            told, room = _output(s, used, s.hidden_states[late], arithmetic)
            rest = found[late] - told
            variance = honest_variance(told, room, arithmetic.output)
            if bool((rest.abs() <= room).all()) and has_honest_size(rest, variance):
                left = part_left(rest, (found - truth)[late], room)
                fits.append(Fit(f"tokens in chunks of {size}: {words}", left))
    return fits


def _output(
    s: Situation, routing: Routing, states: Tensor, arithmetic: Arithmetic
) -> tuple[Tensor, Tensor]:
    """As `Situation.judged`; a token may visit an expert twice."""
    t, k = routing.ids.shape
    ids, weights = routing.ids.reshape(-1, 1), routing.weights.double()
    judged = judge_rank(
        s.part,
        s.config,
        states.repeat_interleave(k, 0),
        Routing(ids, torch.ones(ids.shape)),
        shard=s.shard,
        arithmetic=arithmetic,
    )
    down, allowed = (
        x["down"].reshape(t, k, -1) for x in (judged.truth, judged.allowed)
    )
    told = torch.einsum("tk,tkh->th", weights, down)
    room = torch.einsum("tk,tkh->th", weights.abs(), allowed)
    return told, room + half_ulp(told.abs() + room, arithmetic.output)


def _edits(s: Situation, size: int) -> Iterator[tuple[str, Routing]]:
    """(words, the routing that the layer then has)."""
    ids, weights = s.routing.ids, s.routing.weights
    n = torch.arange(len(ids))
    whose_chunk = {"the first": 0 * n, "the chunk before": n // size - 1}
    if len(ids) <= 2 * size:  # it is the first
        del whose_chunk["the chunk before"]
    for whose, chunk in whose_chunk.items():
        of = (chunk.clamp(min=0) * size).where(n >= size, n)
        later = f"later chunks use the expert counts of {whose}"
        yield later, Routing(_counted(ids, of, size, s), weights)
        taken = of + n % size * (n >= size)
        for what, routing in (
            ("expert ids", Routing(ids[taken], weights)),
            ("routing weights", Routing(ids, weights[taken])),
            ("expert ids and routing weights", Routing(ids[taken], weights[taken])),
        ):
            yield f"later chunks use the {what} of {whose}", routing


def _counted(ids: Tensor, first: Tensor, size: int, s: Situation) -> Tensor:
    """[t, k] where slots keep their place and experts begin where they did before.

    first : [t], the token that the chunk begins with whose counts are used.
    """
    owned = s.shard.expert_range(s.config)
    found = ids.clone()
    for at in range(size, len(ids), size):
        start = int(first[at])
        own, other = (
            _sorted(ids[begin : begin + size], owned) for begin in (at, start)
        )
        flat = ids[at : at + size].flatten().clone()
        taken = ids[start : start + size].flatten()[other]
        behind = taken.new_full((max(len(own) - len(taken), 0),), UNKNOWN)
        flat[own] = torch.cat((taken, behind))[: len(own)]
        found[at : at + size] = flat.reshape(-1, ids.shape[1])
    return found


def _sorted(ids: Tensor, owned: range) -> Tensor:
    """The slots that the rank serves, sorted by expert."""
    flat = ids.flatten()
    order = flat.argsort(stable=True)
    return order[(flat[order] >= owned.start) & (flat[order] < owned.stop)]
