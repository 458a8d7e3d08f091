"""Content from elsewhere: another expert, layer or tensor in the right order."""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import replace

import torch

from mxmoe.conformance.why_bytes.chain_places import expert_words
from mxmoe.conformance.why_bytes.suspect import Place
from mxmoe.conformance.why_bytes.suspect import Suspect
from mxmoe.conformance.why_bytes.value_edits import Values
from mxmoe.conformance.why_bytes.value_edits import value_guesses
from mxmoe.reference.layouts import PADDING
from mxmoe.reference.layouts import Chain
from mxmoe.reference.layouts import IndexMap
from mxmoe.reference.types import ExpertWeights

# An entry that the other tensor does not have.
_OUTSIDE = PADDING - 1
# Each is held against each.
_MOST_EXPERTS = 16

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


def experts_and_values(suspect: Suspect) -> Told:
    """Another expert's content with other values, the same edit in each."""
    whole, owned = _whole_source(suspect), _owned(suspect)
    if len(whole) > _MOST_EXPERTS:
        return
    kind = suspect.index_map.source.rpartition("_")[2]
    real = (suspect.index != PADDING).nonzero().flatten()
    few = real[:: max(1, len(real) // 256)]
    offered = replace(suspect, source=whole)
    wanted = offered.values(suspect.index[few], suspect.chain)
    edits: dict[str, Values] = {}
    fitting: dict[str, dict[int, int]] = {}
    for local, e in enumerate(owned):
        for other in range(len(whole)):
            guesses = value_guesses(kind, wanted[other], suspect.found[local, few])
            for words, edit in guesses:
                if not words.startswith(("holds", "all zero", "each")):
                    fitting.setdefault(words, {}).setdefault(e, other)
                    edits[words] = edit
    for words, holds in fitting.items():
        if len(holds) != len(owned):
            continue
        there = replace(suspect, source=whole[[holds[e] for e in owned]])
        values = edits[words](there.values(suspect.index, suspect.chain))
        padding = suspect.index == PADDING
        for guess in (values, torch.where(padding, suspect.expected, values)):
            place = suspect.holds(guess)
            if place is not None and place.everywhere:
                experts = list(holds.values())
                moved = _expert_map(owned, experts, len(whole))
                yield f"{moved}; {words}", place
                return


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
        return (
            f"experts dealt out one by one, not in ranges: {expert_words(holds, total)}"
        )
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
    prepared, own = suspect.prepared, suspect.chain
    owned = prepared.shard.expert_range(prepared.config)
    maps = prepared.layout.maps(prepared.config, prepared.shard)
    offered: list[tuple[str, Chain, IndexMap]] = [
        (f"holds {name}", chain, maps[name])
        for name, chain in prepared.chains().items()
        if isinstance(chain, Chain)
        and name != prepared.name
        and chain.source.rpartition("_")[2] == own.source.rpartition("_")[2]
    ]
    plain = replace(own, steps=(), divisor=1)
    raw = plain.index_map(prepared.config)
    words = "the checkpoint's own order: no step done"
    expert, at = suspect.probes
    for name, chain, index_map in (*offered, (words, plain, raw)):
        source = prepared.weights.tensors()[chain.source][owned.start : owned.stop]
        there = replace(suspect, source=source.flatten(1).cpu())
        for cut in (_corner, _run):
            if cut is _corner and len(index_map.shape) != len(suspect.index_map.shape):
                continue
            entries = cut(suspect, index_map, suspect.positions[at])
            guess = there.valued(there.source[expert, entries.clamp(min=0)], chain)
            guess = guess.masked_fill(entries == PADDING, 0)
            fits = (guess == suspect.found[expert, at]) | (entries == _OUTSIDE)
            if not bool(fits.all()) or bool((entries == _OUTSIDE).all()):
                continue
            entries = cut(suspect, index_map, suspect.positions)
            inside = entries != _OUTSIDE
            values = there.values(entries.clamp(min=PADDING), chain)
            guess = torch.where(inside, values, suspect.expected)
            place = suspect.holds(guess, real=entries >= 0)
            if place is not None:
                yield name, place
                break


def _corner(suspect: Suspect, other: IndexMap, positions: torch.Tensor) -> torch.Tensor:
    """The source entries of `other` with both in their upper left corner."""
    places, left = torch.zeros_like(positions), positions
    inside, stride = torch.ones_like(positions, dtype=torch.bool), 1
    shapes = zip(suspect.index_map.shape, other.shape, strict=True)
    for count, here in reversed(list(shapes)):
        inside &= left % count < here
        places += left % count * stride
        left, stride = left // count, stride * here
    return _entries(other, places, inside)


def _run(_: Suspect, other: IndexMap, positions: torch.Tensor) -> torch.Tensor:
    """The source entries of `other` with both as flat runs."""
    return _entries(other, positions, positions < math.prod(other.shape))


def _entries(
    index_map: IndexMap, places: torch.Tensor, inside: torch.Tensor
) -> torch.Tensor:
    width = index_map.width
    places = places.masked_fill(~inside, 0)
    runs = index_map.index.reshape(-1)[places // width]
    entries = torch.where(runs < 0, runs, runs * width + places % width)
    return entries.masked_fill(~inside, _OUTSIDE)


def _owned(suspect: Suspect) -> list[int]:
    return list(suspect.prepared.shard.expert_range(suspect.prepared.config))


def _whole_source(suspect: Suspect) -> torch.Tensor:
    """[experts of the layer, n]."""
    chain = suspect.chain
    return suspect.prepared.weights.tensors()[chain.source].flatten(1).cpu()
