"""Faults of grids and of numbers that count something else (L3)."""

from __future__ import annotations

from typing import Any

import torch

from mxmoe.conformance.faults.fault import faults_of
from mxmoe.conformance.faults.plain import Tensor
from mxmoe.conformance.faults.plain import spoiled
from mxmoe.reference.types import Routing

_output = faults_of("L3", "test_output_stays_within_the_bound")


@_output(
    "sgl-project/sglang#30485",
    "row n is all zero where slot n = token * top_k + slot has no expert on this rank",
)
def slots_without_an_expert_erase_rows(candidate: Any) -> object:
    """Zeros for slots without an expert are stored at the slot's number, not at t."""

    def forward(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
        out, owned = candidate.forward(p, x, r), p.shard.expert_range(p.config)
        served = (r.ids >= owned.start) & (r.ids < owned.stop)
        return out.masked_fill(~served.flatten()[: len(out), None], 0)

    return spoiled(candidate, forward=forward)


@_output(
    "ModelTC/LightLLM#1369",
    "experts added once for each e of a grid of experts rounded up to a multiple of 4, "
    "modulo their number",
)
def expert_blocks_wrap(candidate: Any) -> object:
    """Blocks of 4 experts wrap around where there are not as many."""

    def forward(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
        owned = p.shard.expert_range(p.config)
        count = len(owned)
        grid = torch.arange(-(-count // 4) * 4) % max(count, 1)
        often = torch.bincount(grid, minlength=max(count, 1))
        local = (r.ids.long() - owned.start).clamp(0, max(count - 1, 0))
        weights = r.weights * often[local]
        return candidate.forward(p, x, Routing(r.ids, weights))

    return spoiled(candidate, forward=forward)


@_output(
    "vllm-project/vllm#20392",
    "tokens in chunks of 32: later chunks use the expert counts of the first",
)
def expert_counts_of_the_first_chunk(candidate: Any) -> object:
    """A batch runs in chunks of 32 tokens, all with the expert counts of the first."""

    def forward(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
        owned, parts = p.shard.expert_range(p.config), []
        first: Tensor | None = None
        for at in range(0, len(x), 32):
            ids = r.ids[at : at + 32].clone()
            served = (ids >= owned.start) & (ids < owned.stop)
            order = ids.masked_fill(~served, 2**30).flatten().argsort(stable=True)
            order = order[: int(served.sum())]
            first = ids.flatten()[order] if first is None else first
            taken = torch.cat((first, first.new_full(order.shape, -1)))
            ids.view(-1)[order] = taken[: len(order)]
            routing = Routing(ids, r.weights[at : at + 32])
            parts.append(candidate.forward(p, x[at : at + 32], routing))
        return torch.cat(parts) if parts else candidate.forward(p, x, r)

    return spoiled(candidate, forward=forward)
