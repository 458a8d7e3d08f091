"""Lanes of i that a tensor-parallel rank may hold instead of its own.

Lanes are numbers of the whole layer's intermediate dimension, -1 where nothing is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import replace

import torch

from mxmoe.reference.types import BLOCK
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Shard

Tensor = torch.Tensor
# Multiples of lanes that layouts pad to: a block, and the tiles of usual kernels.
_ALIGNMENTS = (BLOCK, 2 * BLOCK, 4 * BLOCK, 8 * BLOCK)


@dataclass(frozen=True, kw_only=True)
class Lanes:
    """gate, up, down : [n] lanes, whose rows and columns a rank holds."""

    gate: Tensor
    up: Tensor
    down: Tensor

    @staticmethod
    def all_alike(lanes: Tensor) -> Lanes:
        """Gate, up and down of the same lanes."""
        return Lanes(gate=lanes, up=lanes, down=lanes)

    def rows(self) -> Tensor:
        """[2n] rows of gate_up: gate and up in turn."""
        gate = torch.where(self.gate < 0, -1, 2 * self.gate)
        up = torch.where(self.up < 0, -1, 2 * self.up + 1)
        return torch.stack((gate, up), dim=1).flatten()


def lanes_of(config: MoEConfig, shard: Shard) -> Lanes:
    """Those that a rank owns."""
    owned = shard.intermediate_range(config)
    return Lanes.all_alike(torch.arange(owned.start, owned.stop))


def relatives(shard: Shard, kind: str) -> dict[str, int]:
    """Words -> the rank of one kind, tp or ep, that a rank may be taken for."""
    size, rank = getattr(shard, f"{kind}_size"), getattr(shard, f"{kind}_rank")
    named = {f"rank 0 of {kind}": 0}
    if size == 2:
        named[f"the other {kind} rank"] = 1 - rank
    else:
        named[f"the {kind} rank before"] = rank - 1
        named[f"the next {kind} rank"] = rank + 1
        named[f"the last {kind} rank"] = size - 1
        named[f"the {kind} rank as counted from the last"] = size - 1 - rank
    other = {"tp": "ep", "ep": "tp"}[kind]
    if getattr(shard, f"{other}_size") > 1:
        words = f"the {kind} rank whose number is the rank's number of {other}"
        named[words] = getattr(shard, f"{other}_rank")
    return {w: n for w, n in named.items() if n != rank and 0 <= n < size}


def other_lanes(config: MoEConfig, shard: Shard) -> dict[str, Lanes]:
    """Words -> lanes that the whole part may be cut at."""
    own = lanes_of(config, shard).gate
    found = dict[str, Tensor]()
    for words, lanes in _cut_otherwise(config, shard):
        if not torch.equal(lanes, own):
            found[words] = lanes
    return {words: Lanes.all_alike(lanes) for words, lanes in found.items()}


def shifted_lanes(config: MoEConfig, shard: Shard) -> dict[str, int]:
    """Words for where a tensor may begin -> by how many lanes that is off."""
    first = shard.intermediate_range(config).start
    found = {"one K block early": -BLOCK, "one K block late": BLOCK}
    for words, rank in relatives(shard, "tp").items():
        start = replace(shard, tp_rank=rank).intermediate_range(config).start
        found[f"where those of {words} do"] = start - first
    return {words: by for words, by in found.items() if by}


def _cut_otherwise(config: MoEConfig, shard: Shard) -> Iterator[tuple[str, Tensor]]:
    rank, tp, i = shard.tp_rank, shard.tp_size, config.intermediate
    for words, other in relatives(shard, "tp").items():
        lanes = lanes_of(config, replace(shard, tp_rank=other)).gate
        yield f"lanes of {words}", lanes
    blocks = i // BLOCK
    each, rest = divmod(blocks, tp)
    if rest:
        yield (
            "i // tp lanes for each rank, in whole K blocks; the rest on no rank",
            _of_blocks(rank * each, each),
        )
        yield (
            "i // tp lanes for each rank, in whole K blocks; the rest on the last",
            _of_blocks(rank * each, each + rest * (rank == tp - 1)),
        )
        yield (
            "i // tp lanes for each rank, in whole K blocks; one K block more for the "
            "first ranks, until none is left",
            _of_blocks(rank * each + min(rank, rest), each + (rank < rest)),
        )
    if i % (tp * BLOCK):
        yield from _apart(config, shard)
    for alignment in _ALIGNMENTS:
        if alignment != shard.alignment:
            words = f"lanes cut in multiples of {alignment}, not {shard.alignment}"
            yield words, lanes_of(config, replace(shard, alignment=alignment)).gate
    dealt = torch.arange(blocks)[rank::tp]
    yield "K blocks dealt to the ranks of tp one by one", _lanes_in(dealt)
    yield from _padded(config, shard)


def _apart(config: MoEConfig, shard: Shard) -> Iterator[tuple[str, Tensor]]:
    """Ranks that share lanes as if there were no K blocks."""
    rank, tp, i = shard.tp_rank, shard.tp_size, config.intermediate
    each, words = i // tp, "i // tp lanes for each rank, K blocks cut apart"
    alike = _from_to(rank * each, (rank + 1) * each)
    if not i % tp:
        yield words, alike
        return
    yield f"{words}; the rest on no rank", alike
    last = _from_to(rank * each, i) if rank == tp - 1 else alike
    yield f"{words}; the rest on the last", last


def _padded(config: MoEConfig, shard: Shard) -> Iterator[tuple[str, Tensor]]:
    """What lies behind the lanes of a rank that has fewer than rank 0."""
    own, most = lanes_of(config, shard).gate, shard.padded_intermediate(config)
    missing = min(most, config.intermediate) - len(own)
    if missing <= 0:
        return
    last = torch.arange(config.intermediate - missing - len(own), config.intermediate)
    yield (
        "as many lanes as rank 0 of tp, the last ones of the layer (the padding holds "
        "lanes of the tp rank before)",
        last,
    )
    behind = "padding behind the rank's lanes holds"
    at = torch.arange(len(own), len(own) + missing)
    for words, rank in relatives(shard, "tp").items():
        theirs = lanes_of(config, replace(shard, tp_rank=rank)).gate
        if len(theirs) == len(own) + missing and rank != shard.tp_rank - 1:
            yield f"{behind} lanes of {words}", torch.cat((own, theirs[at]))
    yield f"{behind} the layer's first lanes", torch.cat((own, at - len(own)))
    if len(own):
        again = own[-BLOCK:].repeat(missing // BLOCK)
        yield f"{behind} its last K block again", torch.cat((own, again))


def _of_blocks(first: int, count: int) -> Tensor:
    return torch.arange(first * BLOCK, (first + count) * BLOCK)


def _from_to(start: int, stop: int) -> Tensor:
    """Lanes of whole K blocks, -1 for those beyond."""
    lanes = torch.arange(start // BLOCK * BLOCK, -(-stop // BLOCK) * BLOCK)
    return torch.where((lanes >= start) & (lanes < stop), lanes, -1)


def _lanes_in(blocks: Tensor) -> Tensor:
    return (blocks[:, None] * BLOCK + torch.arange(BLOCK)).flatten()
