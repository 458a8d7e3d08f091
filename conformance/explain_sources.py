"""Content from elsewhere: another expert, layer or tensor in the right order."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import replace

import torch

from mxmoe.conformance.chain_places import expert_words
from mxmoe.conformance.suspect import Place
from mxmoe.conformance.suspect import Suspect
from mxmoe.conformance.suspect import as_integers
from mxmoe.reference.layouts import PADDING
from mxmoe.reference.layouts import Chain
from mxmoe.reference.types import ExpertWeights

Layers = Callable[[], Iterator[tuple[str, ExpertWeights]]]
"""The words and weights of other layers that the candidate may have seen before."""

Told = Iterator[tuple[str, Place]]


def other_experts(suspect: Suspect) -> Told:
    """Each differing expert holds the bytes of some expert of the layer."""
    whole = _whole_source(suspect)
    chain, index = suspect.chain, suspect.index
    all_experts = replace(suspect, source=whole)
    owned = list(suspect.prepared.shard.expert_range(suspect.prepared.config))
    holds = list(owned)
    guess = suspect.expected.clone()
    for local in suspect.differs.any(dim=1).nonzero().flatten().tolist():
        at = suspect.differs[local].nonzero().flatten()
        few = at[:: max(1, len(at) // 64)]
        found = suspect.found[local]
        offered = all_experts.values(index[few], chain)
        fitting = (offered == found[few]).all(dim=1).nonzero().flatten().tolist()
        for e in fitting:
            values = replace(suspect, source=whole[e : e + 1]).values(index, chain)[0]
            if torch.equal(values[at], found[at]):
                guess[local], holds[local] = values, e
                break
        else:
            return
    place = suspect.holds(guess, real=index != PADDING)
    if place is not None:
        yield _expert_map(owned, holds, suspect.prepared.config.experts), place


def _expert_map(owned: list[int], holds: list[int], total: int) -> str:
    """Which expert stands in the place of which."""
    n = len(owned)
    distances = {(h - e) % total for e, h in zip(owned, holds, strict=True)}
    if len(set(holds)) == 1 and n > 2:
        return f"expert {holds[0]} in every place"
    if len(distances) == 1:
        by = (distances.pop() + total // 2) % total - total // 2
        return f"experts shifted: expert e holds expert e {'-+'[by > 0]} {abs(by)}"
    if holds == owned[::-1]:
        return "experts reversed"
    step = holds[1] - holds[0] if n > 1 else 0
    if step > 1 and holds == list(range(holds[0], holds[0] + step * n, step)):
        return f"experts dealt out one by one, not in ranges: {expert_words(holds, total)}"
    moved = [(e, h) for e, h in zip(owned, holds, strict=True) if e != h]
    if len(moved) == 2 and moved[0] == moved[1][::-1]:
        return f"experts {moved[0][0]} and {moved[0][1]} exchanged"
    said = ", ".join(f"expert {e} holds expert {h}" for e, h in moved[:4])
    return f"{said}{', ...' if len(moved) > 4 else ''}"


def other_layers(suspect: Suspect, layers: Layers) -> Told:
    """The same tensor of a layer that was prepared before."""
    for words, weights in layers():
        prepared = replace(suspect.prepared, weights=weights)
        there = replace(suspect, prepared=prepared)
        mine = _whole_source(there)
        owned = suspect.prepared.shard.expert_range(suspect.prepared.config)
        if len(mine) < owned.stop or mine.shape[1] != suspect.source.shape[1]:
            continue
        there = replace(there, source=mine[owned.start : owned.stop])
        guess = there.values(suspect.index, suspect.chain)
        place = suspect.holds(guess, real=suspect.index != PADDING)
        if place is not None:
            yield f"that of {words}", place


def other_tensors(suspect: Suspect) -> Told:
    """Another prepared tensor, or the checkpoint's own order, cut to this shape."""
    prepared = suspect.prepared
    shape = suspect.index_map.shape
    for name, chain in prepared.chains().items():
        if not isinstance(chain, Chain) or name == prepared.name:
            continue
        index_map = prepared.layout.maps(prepared.config, prepared.shard)[name]
        owned = prepared.shard.expert_range(prepared.config)
        source = prepared.weights.tensors()[chain.source][owned.start : owned.stop]
        kinds = {x.source.rpartition("_")[2] for x in (chain, suspect.chain)}
        if len(kinds) > 1 or not len(owned):
            continue
        tensor = torch.stack([index_map.gather_expert(s) for s in source])
        tensor = torch.stack([suspect.index_map.plain(x) for x in tensor])
        for guess, held in _cut(suspect, as_integers(tensor.contiguous()), shape):
            place = suspect.holds(guess, real=held)
            if place is not None:
                yield f"holds {name}", place
                break
    own = prepared.weights.tensors()[suspect.chain.source]
    owned = prepared.shard.expert_range(prepared.config)
    raw = own[owned.start : owned.stop]
    raw = raw.flatten(2) if raw.ndim > 2 else raw
    values = raw.to(suspect.chain.dtype or raw.dtype)
    for guess, held in _cut(suspect, as_integers(values.contiguous()), shape):
        place = suspect.holds(guess, real=held)
        if place is not None:
            yield "the checkpoint's own order: no step done", place
            break


def _cut(
    suspect: Suspect, tensor: torch.Tensor, shape: tuple[int, ...]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """`tensor` [e, ...] in the upper left corner of `shape`, then as a flat run."""
    flat = tensor.flatten(1)
    if tensor.shape[1:] != shape and tensor.ndim == len(shape) + 1:
        place, left = torch.zeros_like(suspect.positions), suspect.positions
        inside = torch.ones_like(left, dtype=torch.bool)
        stride = 1
        for count, here in reversed(list(zip(shape, tensor.shape[1:], strict=True))):
            at = left % count
            left = left // count
            inside &= at < here
            place += at * stride
            stride *= here
        guess = flat[:, place.masked_fill(~inside, 0)]
        yield torch.where(inside, guess, suspect.expected), inside
    inside = suspect.positions < flat.shape[1]
    guess = flat[:, suspect.positions.masked_fill(~inside, 0)]
    yield torch.where(inside, guess, suspect.expected), inside


def _whole_source(suspect: Suspect) -> torch.Tensor:
    """[experts of the layer, n]."""
    chain = suspect.chain
    return suspect.prepared.weights.tensors()[chain.source].flatten(1).cpu()
