"""Experts that an expert-parallel rank may hold or serve instead of its own.

What a rank holds is a list of global expert ids, one for each of its places; what it
serves is another list, of the ids whose slots go there. Both are its own experts where
nothing is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import torch

from mxmoe.conformance.why_numbers.input_edits import Hypothesis
from mxmoe.conformance.why_numbers.layer_steps import Situation
from mxmoe.conformance.why_numbers.ranks.lanes import relatives
from mxmoe.reference.sharding import shard_weights
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import Routing
from mxmoe.reference.types import Shard

Tensor = torch.Tensor
_W1, _W2 = ("gate_up_blocks", "gate_up_scales"), ("down_blocks", "down_scales")
_PARTS: dict[str, tuple[str, ...]] = {
    "weights and biases": (*_W1, "gate_up_bias", *_W2, "down_bias"),
    "weights, not the biases,": (*_W1, *_W2),
    "gate_up weights": _W1,
    "down weights": _W2,
    "scales": ("gate_up_scales", "down_scales"),
    "gate_up scales": ("gate_up_scales",),
    "down scales": ("down_scales",),
    "biases": ("gate_up_bias", "down_bias"),
    "gate_up bias": ("gate_up_bias",),
    "down bias": ("down_bias",),
}


def other_experts(
    s: Situation, whole: ExpertWeights
) -> Iterator[tuple[str, Hypothesis]]:
    """Every hypothesis about the experts of a rank."""
    columns = replace(s.shard, ep_size=1, ep_rank=0)
    every = shard_weights(whole, s.config, columns)
    yield from _held(s, every)
    yield from _served(s, every)
    yield from _biases_of_others(s, every)
    yield "routing weights of the rank's own slots normalised to a sum of 1", _normal
    if s.routing.ids.shape[1] > 1:
        words = "the n-th slot that the rank serves has the routing weight of slot n"
        yield words, _packed


def _held(s: Situation, every: ExpertWeights) -> Iterator[tuple[str, Hypothesis]]:
    """Slots go to the right places, which hold something of other experts."""
    own, shard = s.shard.expert_range(s.config), s.shard
    count = s.config.experts
    others: dict[str, Sequence[int]] = {
        f"the experts of {words}": range(n * len(own), (n + 1) * len(own))
        for words, n in relatives(shard, "ep").items()
    }
    for words, by in (("expert e - 1", -1), ("expert e + 1", 1)):
        others[f"{words}, across ranks"] = [(e + by) % count for e in own]
    dealt = range(shard.ep_rank, count, shard.ep_size)
    others["the experts dealt to the ranks of ep one by one"] = dealt
    for words, experts in others.items():
        for part, names in _PARTS.items():
            if any(getattr(every, name) is not None for name in names):
                yield f"{part} of {words}", _holding(s, every, experts, names)


def _served(s: Situation, every: ExpertWeights) -> Iterator[tuple[str, Hypothesis]]:
    """Slots of other experts, with their weights or with the rank's own."""
    own, shard = s.shard.expert_range(s.config), s.shard
    count, last = s.config.experts, s.config.experts - 1
    for words, n in relatives(shard, "ep").items():
        theirs = range(n * len(own), (n + 1) * len(own))
        yield f"it were {words}", _serving(every, theirs, theirs)
        local = ", as if ids were local" if words.startswith("rank 0") else ""
        words = f"the rank's experts serve the ids of {words}{local}"
        yield words, _serving(every, own, theirs)
    early, late = max(own.start - 1, 0), min(own.stop, last)
    whole = list(own)
    for words, experts in (
        ("the rank's experts begin one early", [e - 1 for e in own]),
        ("the rank's experts begin one late", [e + 1 for e in own]),
        ("the last expert of the rank not computed", whole[:-1]),
        ("the first expert of the rank not computed", whole[1:]),
        ("the last expert of the rank before computed, too", [early, *own]),
        ("the first expert of the next rank computed, too", [*own, late]),
        (
            "experts dealt to the ranks of ep one by one",
            list(range(shard.ep_rank, count, shard.ep_size)),
        ),
    ):
        there = [e for e in experts if 0 <= e < count]
        if there and sorted(set(there)) != whole:
            yield words, _serving(every, there, there)
    for words, other, place in (
        ("the next rank's first expert visit this rank's last", own.stop, -1),
        ("the last expert of the rank before visit this rank's first", early, 0),
        ("the last expert of the rank before visit this rank's last", early, -1),
    ):
        if 0 <= other < count and other not in own:
            holding = [*own, own[place]]
            yield f"slots of {words}", _serving(every, holding, [*own, other])


def _biases_of_others(
    s: Situation, every: ExpertWeights
) -> Iterator[tuple[str, Hypothesis]]:
    """Slots that other ranks serve add a down bias here, too."""
    if every.down_bias is None:
        return
    own, bias = s.shard.expert_range(s.config), every.down_bias
    for words, given in (
        ("their down bias", bias),
        ("the down bias of this rank's first expert", bias[own.start].expand_as(bias)),
        (
            "the down bias of this rank's last expert",
            bias[own.stop - 1].expand_as(bias),
        ),
    ):
        kept = bias.clone()
        elsewhere = torch.ones(len(bias), dtype=torch.bool)
        elsewhere[own.start : own.stop] = False
        kept[elsewhere] = given[elsewhere]
        codes = every.down_blocks.clone()
        codes[elsewhere] = 0
        part = replace(every, down_bias=kept, down_blocks=codes)
        experts = range(s.config.experts)
        yield (
            f"slots of other ranks' experts add {words}",
            _serving(part, experts, experts),
        )


def _holding(
    s: Situation, every: ExpertWeights, experts: Sequence[int], names: Sequence[str]
) -> Hypothesis:
    @cache
    def part() -> ExpertWeights:
        present = {n: getattr(every, n) for n in names}
        at = torch.tensor(list(experts))
        taken = {n: t[at] for n, t in present.items() if t is not None}
        return replace(s.part, **taken)

    return lambda some: replace(some, part=part())


def _serving(
    every: ExpertWeights, experts: Sequence[int], ids: Sequence[int]
) -> Hypothesis:
    """Places that hold `experts`; slots of `ids`, in that order, go there."""

    @cache
    def part() -> ExpertWeights:
        at = torch.tensor(list(experts))
        taken = {n: t[at] for n, t in every.tensors().items() if "router" not in n}
        return replace(every, **taken)

    def apply(s: Situation) -> Situation:
        place = torch.full((s.config.experts + 1,), -1, dtype=s.routing.ids.dtype)
        for n, e in enumerate(ids):
            place[e] = n
        local = place[s.routing.ids.long()]  # that of -1 is the last entry
        alone = Shard(tp_size=s.shard.tp_size, tp_rank=s.shard.tp_rank)
        top_k = min(s.config.top_k, len(experts))
        return replace(
            s,
            part=part(),
            shard=alone,
            config=replace(s.config, experts=len(experts), top_k=top_k),
            routing=Routing(local, s.routing.weights),
        )

    return apply


def _normal(s: Situation) -> Situation:
    own = s.shard.expert_range(s.config)
    served = (s.routing.ids >= own.start) & (s.routing.ids < own.stop)
    weights = torch.where(served, s.routing.weights, 0)
    total = weights.sum(dim=1, keepdim=True)
    normal = torch.where(total > 0, weights / total, 0)
    return replace(s, routing=Routing(s.routing.ids, normal))


def _packed(s: Situation) -> Situation:
    own = s.shard.expert_range(s.config)
    served = (s.routing.ids >= own.start) & (s.routing.ids < own.stop)
    place = (served.int().cumsum(dim=1) - 1).clamp(min=0).long()
    weights = torch.where(served, s.routing.weights.gather(1, place), 0)
    return replace(s, routing=Routing(s.routing.ids, weights))
