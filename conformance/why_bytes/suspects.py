"""Which entries of a wrong tensor are looked at: all, or as many as time allows."""

from __future__ import annotations

from dataclasses import replace

import torch

from mxmoe.conformance.why_bytes.suspect import Prepared
from mxmoe.conformance.why_bytes.suspect import Suspect
from mxmoe.conformance.why_bytes.suspect import as_integers
from mxmoe.reference.layouts import PADDING
from mxmoe.reference.layouts import IndexMap
from mxmoe.reference.layouts.bit_order import WORD_BYTES as _WORD

# All entries are looked at up to here, and beyond it as many, evenly spread: enough
# that rows, columns and experts are told apart at gpt-oss size, within a tenth of a
# second. Of the first expert that differs every entry that differs is among them.
_MOST_ENTRIES = 2**21
_MOST_DIFFERING = 2**18
# Steps are tried on a narrower layer beyond this size: hidden, an axis that no step
# of a layout cuts, taken modulo this multiple of every padding rule.
_NARROW_FROM_ENTRIES = 2**20
_NARROW = 512
_LANES = torch.arange(_WORD)


def suspect_of(prepared: Prepared, expert: int = 0) -> Suspect | None:
    """None where shape or dtype are wrong, or nothing is gathered for the tensor.

    expert : the local expert that is looked at most closely.
    """
    index_map = prepared.layout.maps(prepared.config, prepared.shard).get(prepared.name)
    owned = prepared.shard.expert_range(prepared.config)
    if index_map is None or not len(owned):
        return None
    source = prepared.weights.tensors()[index_map.source][owned.start : owned.stop]
    dtype = index_map.dtype or source.dtype
    found = prepared.found.detach()
    if found.dtype != dtype or tuple(found.shape) != (len(owned), *index_map.shape):
        return None
    if found[0].numel() == 0:
        return None
    positions = _positions(prepared, index_map, source, expert)
    flat = torch.stack([_plain_at(index_map, x, positions) for x in found.cpu()])
    suspect = Suspect(
        prepared=prepared,
        config=prepared.config,
        index_map=index_map,
        positions=positions,
        found=as_integers(flat),
        expected=torch.empty(0),
        narrower=_narrowed,
        source=source.flatten(1).cpu(),
    )
    chain = suspect.chain
    return replace(suspect, expected=suspect.values(suspect.index, chain))


def _positions(
    prepared: Prepared, index_map: IndexMap, source: torch.Tensor, expert: int
) -> torch.Tensor:
    """Which entries of every expert are looked at."""
    total = prepared.found[0].numel()
    most = max(_WORD, _MOST_ENTRIES // len(source))
    if total <= most:
        return torch.arange(total)
    found = prepared.found[expert].cpu().reshape(-1)
    wanted = index_map.gather_expert(source[expert].cpu()).reshape(-1)
    at = (found != wanted).nonzero().flatten()
    at = at[:: max(1, len(at) // _MOST_DIFFERING)]
    # Whole words, a prime number of them apart, so that no row or column is left out.
    words = torch.arange(most // _WORD) * 10007 % (total // _WORD)
    chosen = torch.zeros(total // _WORD + 1, dtype=torch.bool)
    chosen[words] = True
    chosen[at // _WORD] = True
    every = chosen.nonzero() * _WORD + _LANES
    return every[every < total]


def _plain_at(
    index_map: IndexMap, prepared: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor:
    """Entries of one expert with their bits moved back."""
    flat = prepared.reshape(-1)
    if index_map.bits is None:
        return flat[positions]
    words = positions // _WORD
    if torch.equal(positions, words[::_WORD, None].mul(_WORD).add(_LANES).flatten()):
        return index_map.bits.undo(flat.view(-1, _WORD)[words[::_WORD]]).flatten()
    words, back = words.unique(return_inverse=True)
    plain = index_map.bits.undo(flat.view(-1, _WORD)[words])
    return plain[back, positions % _WORD]


def _narrowed(suspect: Suspect) -> Suspect:
    """The same fault in a layer of fewer columns, where that is much less to search."""
    full = suspect.prepared.config
    hidden = full.hidden % _NARROW or _NARROW
    total = suspect.index_map.index.numel()
    if total <= _NARROW_FROM_ENTRIES or hidden == full.hidden:
        return suspect
    prepared, config = suspect.prepared, replace(full, hidden=hidden)
    index_map = prepared.layout.maps(config, prepared.shard)[prepared.name]
    whole = index_map.index.flatten()
    real = (whole != PADDING).nonzero().flatten()
    width = index_map.width
    positions = (real[:, None] * width + torch.arange(width)).flatten()
    gate_up = index_map.source.startswith("gate_up")
    per_row = suspect.source.shape[1] // (2 * full.intermediate if gate_up else 1)
    part = per_row * hidden // full.hidden
    narrow = replace(
        suspect,
        config=config,
        index_map=index_map,
        positions=positions,
        widen=(part, per_row) if gate_up else None,
        _refused=set(),
        _placed={},
    )
    # Every entry of the narrower layer, where the right layout has it in the full one.
    # The last run stands for padding.
    back = torch.empty(suspect.source.shape[1] // width + 1, dtype=torch.int32)
    runs = suspect.index_map.index.flatten()
    back[runs] = torch.arange(len(runs), dtype=torch.int32)
    there = back[narrow.index // width] * width + narrow.index % width
    found = prepared.found.cpu()
    flat = torch.stack([_plain_at(suspect.index_map, x, there) for x in found])
    narrow = replace(narrow, found=as_integers(flat))
    return replace(narrow, expected=narrow.values(narrow.index, narrow.chain))
