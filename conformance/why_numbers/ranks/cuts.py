"""A rank that holds or serves another part of the layer than its own, as edits.

What a rank is given is cut out of the whole layer: rows of gate_up and columns of down
by the lanes of tensor parallelism, experts by those of expert parallelism. Each
hypothesis cuts some tensors, or all, elsewhere. Words are relative ("the tp rank
before"), so that one sentence may be true of several ranks and of other sizes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import torch

from mxmoe.conformance.why_numbers.input_edits import Hypothesis
from mxmoe.conformance.why_numbers.layer_steps import Situation
from mxmoe.conformance.why_numbers.ranks.experts import other_experts
from mxmoe.conformance.why_numbers.ranks.lanes import Lanes
from mxmoe.conformance.why_numbers.ranks.lanes import lanes_of
from mxmoe.conformance.why_numbers.ranks.lanes import other_lanes
from mxmoe.conformance.why_numbers.ranks.lanes import shifted_lanes
from mxmoe.conformance.why_numbers.ranks.tensors import cut_at
from mxmoe.conformance.why_numbers.ranks.tensors import taken
from mxmoe.reference.types import BLOCK_BYTES
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import Shard

Tensor = torch.Tensor
_GATE_UP = ("gate_up_blocks", "gate_up_scales", "gate_up_bias")
_DOWN = ("down_blocks", "down_scales")
# What of gate_up may begin elsewhere, of one half or of both.
_OF_HALVES = {
    "rows begin": _GATE_UP,
    "scales begin": ("gate_up_scales",),
    "bias begins": ("gate_up_bias",),
}


def rank_cuts(s: Situation) -> Iterator[tuple[str, Hypothesis]]:
    """Every hypothesis that applies to the rank of a situation; none of a whole one."""
    if s.whole is None:
        return
    if s.shard.tp_size > 1:
        yield from _lanes(s, s.whole)
    if s.shard.ep_size > 1:
        yield from other_experts(s, s.whole)
    if s.shard.tp_size > 1 and s.shard.ep_size > 1:
        yield "ranks counted with ep inside of tp", _as_rank(s.whole, _exchanged(s))


def _exchanged(s: Situation) -> Shard:
    tp, ep = s.shard.tp_size, s.shard.ep_size
    number = s.shard.ep_rank * tp + s.shard.tp_rank
    return replace(s.shard, tp_rank=number // ep, ep_rank=number % ep)


def _as_rank(whole: ExpertWeights, shard: Shard) -> Hypothesis:
    def apply(s: Situation) -> Situation:
        lanes = lanes_of(s.config, shard)
        experts = shard.expert_range(s.config)
        part = cut_at(whole, experts, lanes, (*_GATE_UP, *_DOWN, "down_bias"))
        return replace(s, part=replace(s.part, **part), shard=shard)

    return apply


def _lanes(s: Situation, whole: ExpertWeights) -> Iterator[tuple[str, Hypothesis]]:
    """All of the rank's lanes are others, or those of one tensor or half."""
    own = lanes_of(s.config, s.shard)
    for words, lanes in other_lanes(s.config, s.shard).items():
        yield words, _with(s, whole, lanes, (*_GATE_UP, *_DOWN))
        # Where a rank begins is asked below.
        if len(lanes.gate) == len(own.gate) and not words.startswith("lanes of"):
            yield f"{words}, gate_up only", _with(s, whole, lanes, _GATE_UP)
            yield f"{words}, down only", _with(s, whole, lanes, _DOWN)
    if not len(own.gate):
        return
    for where, by in shifted_lanes(s.config, s.shard).items():
        moved = Lanes.all_alike(_inside(own.gate + by, s.config.intermediate))
        for words, names in (
            ("all lanes begin", (*_GATE_UP, *_DOWN)),
            ("down columns begin", _DOWN),
            ("down scales begin", ("down_scales",)),
        ):
            yield f"{words} {where}", _with(s, whole, moved, names)
        for half, lanes in (
            ("gate_up", moved),
            ("gate", replace(own, gate=moved.gate)),
            ("up", replace(own, up=moved.up)),
        ):
            for of_half, some in _OF_HALVES.items():
                if any(getattr(whole, name) is not None for name in some):
                    yield f"{half} {of_half} {where}", _with(s, whole, lanes, some)
    yield from _rows(s, whole, own.gate)
    first = int(own.gate[0])
    for words, begin in (("half", first // 2), ("twice", 2 * first)):
        if first and begin + len(own.gate) <= s.config.intermediate:
            name = f"down codes, not their scales, begin at {words} their first lane"
            yield name, _with_codes(s, whole, begin)


def _rows(
    s: Situation, whole: ExpertWeights, own: Tensor
) -> Iterator[tuple[str, Hypothesis]]:
    """Rows of gate_up that are cut as if their order were another one."""
    i, first, count = s.config.intermediate, int(own[0]), len(own)
    pairs = torch.arange(2 * count)
    halves = torch.cat((own, i + own))
    in_pairs = torch.stack((own, i + own), dim=1).flatten()
    for words, rows in (
        ("gate_up rows begin one row early", 2 * first - 1 + pairs),
        ("gate_up rows begin one row late", 2 * first + 1 + pairs),
        ("gate_up rows begin one lane early", 2 * first - 2 + pairs),
        ("gate_up rows begin one lane late", 2 * first + 2 + pairs),
        (
            "gate_up rows begin at the first lane, not at twice that",
            first + pairs,
        ),
        ("gate_up rows cut as if all gates came before all ups", halves),
        ("gate and up of lane n taken from rows n and i + n", in_pairs),
    ):
        yield words, _with_rows(s, whole, _inside(rows, 2 * i))


def _inside(index: Tensor, end: int) -> Tensor:
    """-1 where there is nothing."""
    return torch.where((index >= 0) & (index < end), index, -1)


def _with(
    s: Situation, whole: ExpertWeights, lanes: Lanes, names: tuple[str, ...]
) -> Hypothesis:
    experts = s.shard.expert_range(s.config)

    @cache
    def part() -> ExpertWeights:
        return replace(s.part, **cut_at(whole, experts, lanes, names))

    return lambda some: replace(some, part=part())


def _with_rows(s: Situation, whole: ExpertWeights, rows: Tensor) -> Hypothesis:
    experts = s.shard.expert_range(s.config)

    @cache
    def part() -> ExpertWeights:
        present = [name for name in _GATE_UP if getattr(whole, name) is not None]
        cut = {name: taken(whole, name, experts, rows) for name in present}
        return replace(s.part, **cut)

    return lambda some: replace(some, part=part())


def _with_codes(s: Situation, whole: ExpertWeights, first: int) -> Hypothesis:
    """Codes of down are those from lane `first` on, under the rank's own scales."""
    experts = s.shard.expert_range(s.config)
    count = s.part.down_blocks.shape[2] * BLOCK_BYTES

    @cache
    def part() -> ExpertWeights:
        codes = whole.down_blocks[experts.start : experts.stop].flatten(2)
        codes = codes[:, :, first // 2 : first // 2 + count]
        return replace(s.part, down_blocks=codes.unflatten(2, (-1, BLOCK_BYTES)))

    return lambda some: replace(some, part=part())
