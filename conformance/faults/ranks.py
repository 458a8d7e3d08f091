"""Faults of sharding and reduction, seen when all ranks are put together (L4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from mxmoe.conformance.faults.fault import faults_of
from mxmoe.conformance.faults.plain import CLAIMS
from mxmoe.conformance.faults.plain import PLAIN
from mxmoe.conformance.faults.plain import Tensor
from mxmoe.conformance.faults.plain import changed
from mxmoe.conformance.faults.plain import pack
from mxmoe.conformance.faults.plain import spoiled
from mxmoe.conformance.faults.state import calling
from mxmoe.reference.layouts import TRTLLM_GEN
from mxmoe.reference.layouts import Layout
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Routing
from mxmoe.reference.types import Shard

_sum = faults_of("L4", "test_tensor_parallel_ranks_sum_to_the_whole")
_experts = faults_of("L4", "test_expert_parallel_ranks_sum_to_the_whole")
_own = faults_of("L4", "test_each_rank_adds_only_what_it_owns")
_bytes = faults_of("L4", "test_prepared_bytes_of_all_ranks_are_the_checkpoints")
_output = faults_of("L3", "test_output_stays_within_the_bound")
_reduce = faults_of("L4", "test_all_reduce_gives_the_sum_of_the_ranks")

_TRT = "NVIDIA/TensorRT-LLM#13867"

Choice = Callable[[Shard], Shard]


def as_rank(candidate: Any, choose: Choice) -> object:
    """`candidate` takes itself for another rank, in prepare and in forward."""

    def prepare(w: Any, config: Any, shard: Any, device: Any) -> object:
        return candidate.prepare(w, config, choose(shard), device)

    def forward(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
        shard = choose(p.shard)
        lanes = len(shard.intermediate_range(p.config))
        return candidate.forward(
            replace(p, shard=shard, valid_intermediate=lanes), x, r
        )

    return spoiled(candidate, prepare=prepare, forward=forward)


def _bias_share(share: Callable[[Shard], float]) -> object:
    return replace(PLAIN, add_down_bias=lambda y, b, s: y + b * share(s))


def _packing(choose: Choice, *names: str) -> object:
    def packed(w: ExpertWeights, c: MoEConfig, s: Shard) -> dict[str, Tensor]:
        own, others = pack(w, c, s), pack(w, c, choose(s))
        return own | {name: others[name] for name in names or own if name in own}

    return replace(PLAIN, pack=packed)


@_sum("", "not divided by tp")
def bias_added_by_every_rank() -> object:
    """Each tensor-parallel rank adds the whole down bias."""
    return _bias_share(lambda s: 1)


@_sum("", "down bias divided by tp twice")
def bias_divided_in_prepare_and_in_forward() -> object:
    """Prepared weights hold bias / tp, and the kernel divides by tp again."""
    return _bias_share(lambda s: 1 / s.tp_size**2)


@_sum("", "down bias on no rank")
def bias_left_to_the_caller() -> object:
    """No rank of several adds the down bias."""
    return _bias_share(lambda s: s.tp_size == 1)


@_sum("", "rank tp2r1 missing")
def last_rank_adds_nothing(candidate: Any) -> object:
    """The last tensor-parallel rank gives zeros."""

    def forward(p: Any, x: Tensor, r: Routing) -> Tensor:
        out = candidate.forward(p, x, r)
        return out * (p.shard.tp_rank < p.shard.tp_size - 1)

    return calling(candidate, forward)


@_sum("", "holds the part of")
def every_rank_is_rank_0(candidate: Any) -> object:
    """The rank is not handed down: each holds the lanes of rank 0."""
    return as_rank(candidate, lambda s: replace(s, tp_rank=0))


@_sum("", "holds the part of")
def rank_1_is_rank_0(candidate: Any) -> object:
    """Rank 1 holds the lanes of rank 0."""
    return as_rank(
        candidate, lambda s: replace(s, tp_rank=s.tp_rank * (s.tp_rank != 1))
    )


@_sum("", "every rank computes the whole layer")
def shard_ignored(candidate: Any) -> object:
    """Every rank holds and computes everything."""
    return as_rank(candidate, lambda s: Shard(alignment=s.alignment))


@_sum("", "each rank adds the hidden states")
def residual_added_by_every_rank(candidate: Any) -> object:
    """The residual is fused into the kernel, before the ranks are added."""
    return calling(
        candidate, lambda p, x, r: (candidate.forward(p, x, r).float() + x).to(x.dtype)
    )


@_sum(_TRT, "as many lanes as rank 0 of tp, the last ones of the layer")
def valid_i_unclamped() -> object:
    """The last rank takes as many lanes as rank 0, although fewer are left."""

    def packed(w: ExpertWeights, c: MoEConfig, s: Shard) -> dict[str, Tensor]:
        full = len(replace(s, tp_rank=0).intermediate_range(c))
        stop = s.intermediate_range(c).stop
        rows = slice(2 * (stop - full), 2 * stop)
        columns = slice((stop - full) // 32, stop // 32)
        e = s.expert_range(c)
        found = {}
        for name, tensor in w.tensors().items():
            if name.startswith("gate_up"):
                found[name] = tensor[e.start : e.stop, rows].clone()
            elif name == "down_bias":
                found[name] = tensor[e.start : e.stop].clone()
            elif name.startswith("down"):
                found[name] = tensor[e.start : e.stop, :, columns].clone()
        return found

    return replace(PLAIN, pack=packed, capabilities={**CLAIMS, "layout": None})


@_sum("", "out of their own bound")
def lanes_rounded_down() -> object:
    """Each rank holds i // tp lanes, whole blocks only; the rest is on no rank."""

    def packed(w: ExpertWeights, c: MoEConfig, s: Shard) -> dict[str, Tensor]:
        lanes = c.intermediate // s.tp_size // 32 * 32
        own, most = pack(w, c, s), len(s.intermediate_range(c))
        kept = min(lanes, most)
        cut = {n: t[:, : 2 * kept] for n, t in own.items() if n.startswith("gate_up")}
        down = ("down_blocks", "down_scales")
        return own | cut | {n: own[n][:, :, : kept // 32] for n in down}

    return replace(PLAIN, pack=packed)


@_experts("", "down bias divided by ep")
def bias_divided_by_all_ranks() -> object:
    """The down bias is divided by the number of all ranks, expert-parallel ones too."""
    return _bias_share(lambda s: 1 / (s.tp_size * s.ep_size))


@_output("", "down bias on rank 0 of ep only")
def bias_on_rank_0_of_ep() -> object:
    """Experts of other expert-parallel ranks have no down bias."""
    return _bias_share(lambda s: (s.ep_rank == 0) / s.tp_size)


@_experts("", "every rank computes the whole layer: all experts")
def experts_not_divided(candidate: Any) -> object:
    """Every expert-parallel rank computes every expert."""
    return as_rank(candidate, lambda s: replace(s, ep_size=1, ep_rank=0))


@_own("", "every rank holds the part of the next rank of ep")
def experts_of_the_next_rank(candidate: Any) -> object:
    """Each rank serves its neighbour's experts, so that the sum is right."""
    return as_rank(candidate, lambda s: replace(s, ep_rank=(s.ep_rank + 1) % s.ep_size))


@_own("", "every rank holds", "rank of tp")
def lanes_from_the_last(candidate: Any) -> object:
    """Lanes are dealt out from the last rank, so that the sum is right."""
    return as_rank(candidate, lambda s: replace(s, tp_rank=s.tp_size - 1 - s.tp_rank))


@_own("", "no lane of i", "down bias divided by tp, on rank 0 of tp only")
def rank_without_lanes_adds_nothing(candidate: Any) -> object:
    """A rank that owns no lanes returns early, and its share of the bias is lost."""

    def forward(p: Any, x: Tensor, r: Routing) -> Tensor:
        out = candidate.forward(p, x, r)
        return out if p.valid_intermediate else torch.zeros_like(out)

    return calling(candidate, forward)


@_own("", "should get exactly 0")
def remainders_in_foreign_rows(candidate: Any) -> object:
    """Rows of tokens that are served elsewhere hold a little of something else."""

    def forward(p: Any, x: Tensor, r: Routing) -> Tensor:
        out = candidate.forward(p, x, r)
        e = p.shard.expert_range(p.config)
        here = ((r.ids >= e.start) & (r.ids < e.stop)).any(dim=1)
        return torch.where(here[:, None], out, 2.0**-30 * torch.ones_like(out))

    return calling(candidate, forward)


@_bytes("", "gate_up_blocks: any of", "sliced at i // tp lanes, in whole blocks only")
def lanes_rounded_down_in_prepare() -> object:
    """As `lanes_rounded_down`, seen in the bytes."""
    return lanes_rounded_down.plant()


@_bytes("", "rank tp2r0-ep2r0 lacks", "it holds the part of rank tp2r0-ep2r1")
def bytes_of_the_next_rank() -> object:
    """Each rank prepares its neighbour's experts."""
    return _packing(lambda s: replace(s, ep_rank=(s.ep_rank + 1) % s.ep_size))


@_bytes("", "down_scales: rank", "why    down_scales: expert")
def scales_of_another_expert() -> object:
    """Down scales are those of the next expert of the rank."""

    def packed(w: ExpertWeights, c: MoEConfig, s: Shard) -> dict[str, Tensor]:
        own = pack(w, c, s)
        return own | {"down_scales": own["down_scales"].roll(1, 0)}

    return replace(PLAIN, pack=packed)


@_bytes("", "down_bias: the shares of", "on rank 0 of tp only")
def bias_on_rank_0_only() -> object:
    """Other ranks hold zeros for the down bias, and rank 0 all of it."""

    def packed(w: ExpertWeights, c: MoEConfig, s: Shard) -> dict[str, Tensor]:
        own = pack(w, c, s)
        mine = {n: t * (s.tp_rank == 0) for n, t in own.items() if n == "down_bias"}
        return own | mine

    return replace(PLAIN, pack=packed)


def laid_out(
    edit: Callable[[str, Tensor, Any], Tensor], layout: Layout = TRTLLM_GEN
) -> object:
    """A loader for `layout`; edit(name, tensor, index map) changes its tensors."""

    def prepare(w: Any, config: Any, shard: Any, device: Any) -> dict[str, Tensor]:
        maps = layout.maps(config, shard)
        tensors = layout.expected(w, config, shard)
        return {n: edit(n, t, maps.get(n)) for n, t in tensors.items()}

    claims = {**CLAIMS, "layout": layout.name}
    return changed(
        PLAIN,
        capabilities=claims,
        prepare=prepare,
        forward=None,
        trace=None,
        forward_fused=None,
    )


@_bytes("", "are not the layout's padding", "the padding holds 127")
def padding_of_ones() -> object:
    """Padded scales are 0x7f instead of 0x00."""

    def edit(name: str, tensor: Tensor, index_map: Any) -> Tensor:
        if name != "fc2_scales":
            return tensor
        return torch.where(index_map.index.reshape(tensor.shape[1:]) < 0, 127, tensor)

    return laid_out(edit)


@_bytes("", "down_bias: the shares of", "not divided by tp")
def prepared_bias_not_divided() -> object:
    """fc2_bias holds the whole bias on every rank."""

    def edit(name: str, tensor: Tensor, index_map: Any) -> Tensor:
        return tensor * index_map.divisor if name == "fc2_bias" else tensor

    return laid_out(edit)


def reducing(all_reduce: Callable[[list[Tensor]], Tensor]) -> object:
    """A candidate that owns the collective."""
    return changed(PLAIN, all_reduce=all_reduce)


@_reduce("", "mean over ranks, not the sum")
def all_reduce_averages() -> object:
    """The mean of the ranks' outputs."""
    return reducing(lambda parts: torch.stack(parts).mean(dim=0))


@_reduce("", "rank tp2r1 missing")
def all_reduce_leaves_the_last_out() -> object:
    """The last of the ranks is not added."""
    return reducing(lambda parts: torch.stack(parts[:-1]).sum(dim=0))


@_reduce("", "rank tp2r0 added twice")
def all_reduce_starts_from_its_own() -> object:
    """The sum over all ranks is added to the output of rank 0."""
    return reducing(lambda parts: parts[0] + torch.stack(parts).sum(dim=0))
