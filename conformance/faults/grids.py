"""Faults of grids and of numbers that count something else (L3)."""

from __future__ import annotations

from typing import Any

import torch

from mxmoe.conformance.faults.fault import faults_of
from mxmoe.conformance.faults.plain import Tensor
from mxmoe.conformance.faults.plain import spoiled
from mxmoe.conformance.faults.tails import Editing
from mxmoe.reference.types import Routing

_output = faults_of("L3", "test_output_stays_within_the_bound")
_nobody = faults_of("L2", "test_minus_one_contributes_nothing")


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


@_output("", "left out: an expert's last rows, which do not fill a tile of 16\n")
def last_tile_of_rows_dropped() -> object:
    """Experts of more than 16 rows run full tiles of 16 only."""

    def cut(stages: dict[str, Tensor], *_: object) -> dict[str, Tensor]:
        count = len(stages["down"])
        kept = torch.arange(count) < (count // 16 * 16 or count)
        return stages | {"down": stages["down"] * kept[:, None]}

    return Editing(edit=cut)


@_output(
    "",
    "GEMM2 stores each slot's result at the place of row r % 8 of its expert, its "
    "first tile again, not at its own: the last one stays, and what is not stored is 0",
)
def rows_stored_in_the_first_tile() -> object:
    """Every tile of 8 rows of an expert is stored where the first one belongs."""

    def moved(stages: dict[str, Tensor], *_: object) -> dict[str, Tensor]:
        down = torch.zeros_like(stages["down"])
        for tile in stages["down"].split(8):
            down[: len(tile)] = tile
        return stages | {"down": down}

    return Editing(edit=moved)


@_nobody(
    "",
    "the sum over slots takes the weight of slot p, not its own (p = its position "
    "sorted by expert)",
)
def weights_read_in_sorted_order(candidate: Any) -> object:
    """Slots are sorted by expert, and their routing weights are not."""

    def forward(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
        owned, flat = p.shard.expert_range(p.config), r.ids.flatten()
        served = (flat >= owned.start) & (flat < owned.stop)
        order = torch.where(served, flat, owned.stop).argsort(stable=True)
        weights = torch.empty_like(r.weights).flatten()
        weights[order] = r.weights.flatten()
        weights = weights.reshape(r.weights.shape)
        return candidate.forward(p, x, Routing(r.ids, weights))

    return spoiled(candidate, forward=forward)
