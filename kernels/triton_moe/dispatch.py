"""Dispatch: which slots each expert serves, and the token tiles that cover them.

A stable counting sort. Up to 1024 slots take one launch of one program. More take
two: every program of the first counts one chunk of 1024 slots; every program of the
second adds up all counts, which are few, and places its chunk. Inside a chunk, slots
are sorted by expert and slot, so that nothing depends on the order of threads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from mxmoe.kernels.triton_moe.next_launch import chained
from mxmoe.kernels.triton_moe.next_launch import start_next
from mxmoe.kernels.triton_moe.next_launch import wait
from mxmoe.kernels.triton_moe.route import padded_experts

# Slots that one program sorts, and those of one of its warps: 4 for each thread.
_CHUNK, _SLOTS_OF_WARP = 1024, 128
# Chunks whose counts are read at once.
_COUNTS_AT_ONCE = 32


@dataclass(frozen=True, eq=False)
class Dispatch:
    """The slots of this rank's experts, in order, cut into token tiles.

    All int32 on the device of the ids; n = t * k, a slot is token * top_k + k, and a
    position is a place in `slots`.

    slots : [n], position -> slot; experts ascending, slots ascending within one.
        Slots of no expert of this rank (-1 or another rank's) come last, ascending.
    expert_start : [e + 1], position of each expert's first slot; the last is the
        number of slots served.
    tile_expert : [bound], local expert of each tile, ordered by expert and position
        and dense from 0; -1 where there is no tile.
    tile_start : [bound], position of the tile's first slot; 0 where there is no tile.
    tile_stop : [bound], position after the tile's last slot; 0 where there is no tile.
    """

    slots: torch.Tensor
    expert_start: torch.Tensor
    tile_expert: torch.Tensor
    tile_start: torch.Tensor
    tile_stop: torch.Tensor

    def tiles(self) -> tuple[torch.Tensor, ...]:
        """The three tensors that describe tiles."""
        return self.tile_expert, self.tile_start, self.tile_stop


def tile_bound(slots: int, experts: int, block_t: int) -> int:
    """The most tiles that `slots` slots of `experts` experts can make.

    Expert e with c > 0 slots has ceil(c / B) <= c tiles, and <= c // B + 1. Summed
    over experts: at most n; and at most n // B, because sums of floors are no more
    than the floor of the sum, plus the experts that have slots, min(n, e).
    """
    return min(slots, min(slots, experts) + slots // block_t)


def empty_dispatch(
    slots: int, experts: int, block_t: int, device: torch.device
) -> Dispatch:
    """Room for the dispatch of that many slots."""
    bound = tile_bound(slots, experts, block_t)
    sizes = (slots, experts + 1, bound, bound, bound)
    return Dispatch(*(torch.empty(s, dtype=torch.int32, device=device) for s in sizes))


def dispatch(
    ids: torch.Tensor, *, first_expert: int, experts: int, block_t: int
) -> Dispatch:
    """Sort the slots of `ids` by expert, for tiles of `block_t` slots.

    ids : int32 or int64 [t, k] on a GPU with any strides, global expert ids. This
        rank serves `first_expert` to `first_expert + experts - 1`; any other number
        stands for no expert of this rank.
    """
    tokens, top_k = ids.shape
    slots = tokens * top_k
    made = empty_dispatch(slots, experts, block_t, ids.device)
    if slots == 0:
        made.expert_start.zero_()
        return made
    chunks = triton.cdiv(slots, _CHUNK)
    padded = padded_experts(experts)
    counts = torch.empty(
        (chunks if chunks > 1 else 0, padded), dtype=torch.int32, device=ids.device
    )
    source = (ids, slots, *ids.stride(), first_expert, experts)
    chunk = _CHUNK if chunks > 1 else max(16, triton.next_power_of_2(slots))
    options = {
        "TOP_K": top_k,
        "CHUNK": chunk,
        "EXPERTS": padded,
        **chained(ids.device),
        "num_warps": max(1, chunk // _SLOTS_OF_WARP),
    }
    with torch.cuda.device_of(ids):
        if chunks > 1:
            _count_kernel[(chunks,)](*source, counts, **options)
        _place_kernel[(chunks,)](
            *source,
            counts,
            made.slots,
            made.expert_start,
            *made.tiles(),
            made.tile_expert.shape[0],
            ONE_CHUNK=chunks == 1,
            COUNTS_AT_ONCE=_COUNTS_AT_ONCE,
            BLOCK_T=block_t,
            **options,
        )
    return made


@triton.jit
def write_tiles(
    expert,
    total,
    expert_start,
    tile_expert,
    tile_start,
    tile_stop,
    experts,
    bound,
    program,
    programs,
    BLOCK_T: tl.constexpr,  # noqa: N803
    EXPERTS: tl.constexpr,  # noqa: N803
):
    """Starts and tiles from each expert's number of slots; all blocks are [EXPERTS].

    expert : local ids, ascending; `total` is 0 where they are not those of this rank.
    `programs` programs share the tiles: each writes the j-th tile of every expert
    for its own j.
    """
    end = tl.cumsum(total)
    if program == 0:
        tl.store(expert_start, 0)
        of_rank = (expert >= 0) & (expert < experts)
        tl.store(expert_start + 1 + expert, end, mask=of_rank)
    tiles = (total + BLOCK_T - 1) // BLOCK_T
    first = tl.cumsum(tiles) - tiles
    for j in range(program, tl.max(tiles), programs):
        tl.store(tile_expert + first + j, expert, mask=j < tiles)
        start = end - total + j * BLOCK_T
        tl.store(tile_start + first + j, start, mask=j < tiles)
        stop = tl.minimum(end, start + BLOCK_T)
        tl.store(tile_stop + first + j, stop, mask=j < tiles)
    for unused in range(tl.sum(tiles) + program * EXPERTS, bound, programs * EXPERTS):
        at = unused + tl.arange(0, EXPERTS)
        tl.store(tile_expert + at, -1, mask=at < bound)
        tl.store(tile_start + at, 0, mask=at < bound)
        tl.store(tile_stop + at, 0, mask=at < bound)


@triton.jit
def _experts_of_chunk(
    ids,
    slots,
    ids_token,
    ids_k,
    first_expert,
    experts,
    TOP_K: tl.constexpr,  # noqa: N803
    CHUNK: tl.constexpr,  # noqa: N803
):
    """Local ids int32 [CHUNK]; `experts` stands for no expert of this rank."""
    slot = tl.program_id(0) * CHUNK + tl.arange(0, CHUNK)
    at = (slot // TOP_K).to(tl.int64) * ids_token + slot % TOP_K * ids_k
    local = tl.load(ids + at, mask=slot < slots, other=-1) - first_expert
    served = (local >= 0) & (local < experts) & (slot < slots)
    return tl.where(served, local, experts).to(tl.int32)


@triton.jit(do_not_specialize=["slots", "first_expert", "experts"])
def _count_kernel(
    ids,
    slots,
    ids_token,
    ids_k,
    first_expert,
    experts,
    counts,
    TOP_K: tl.constexpr,  # noqa: N803
    CHUNK: tl.constexpr,  # noqa: N803
    EXPERTS: tl.constexpr,  # noqa: N803
    CHAINED: tl.constexpr,  # noqa: N803
):
    start_next(CHAINED)
    wait(CHAINED)
    expert = _experts_of_chunk(
        ids, slots, ids_token, ids_k, first_expert, experts, TOP_K, CHUNK
    )
    count = tl.histogram(expert, EXPERTS, mask=expert < experts)
    tl.store(counts + tl.program_id(0) * EXPERTS + tl.arange(0, EXPERTS), count)


@triton.jit(do_not_specialize=["slots", "first_expert", "experts", "bound"])
def _place_kernel(
    ids,
    slots,
    ids_token,
    ids_k,
    first_expert,
    experts,
    counts,
    placed,
    expert_start,
    tile_expert,
    tile_start,
    tile_stop,
    bound,
    TOP_K: tl.constexpr,  # noqa: N803
    CHUNK: tl.constexpr,  # noqa: N803
    ONE_CHUNK: tl.constexpr,  # noqa: N803
    COUNTS_AT_ONCE: tl.constexpr,  # noqa: N803
    BLOCK_T: tl.constexpr,  # noqa: N803
    EXPERTS: tl.constexpr,  # noqa: N803
    CHAINED: tl.constexpr,  # noqa: N803
):
    start_next(CHAINED)
    wait(CHAINED)
    chunk, chunks = tl.program_id(0), tl.num_programs(0)
    expert = _experts_of_chunk(
        ids, slots, ids_token, ids_k, first_expert, experts, TOP_K, CHUNK
    )
    # What is behind the last slot is of no expert, and behind all slots of none.
    position = tl.arange(0, CHUNK)
    stored = position < slots - chunk * CHUNK
    key = tl.sort(expert * CHUNK + position)
    sorted_expert, source = key // CHUNK, key % CHUNK
    if ONE_CHUNK:
        total = tl.histogram(expert, EXPERTS, mask=expert < experts)
    else:
        total, before, own = _add_counts(counts, chunk, chunks, COUNTS_AT_ONCE, EXPERTS)
        # From the place in the sorted chunk to the place among all.
        shift = tl.cumsum(total) - total + before - (tl.cumsum(own) - own)
        served = sorted_expert < experts
        shift = tl.gather(shift, tl.where(served, sorted_expert, 0), 0)
        # Slots of no expert: behind all that are served and those of earlier chunks.
        rest = tl.sum(total) + chunk * CHUNK - tl.sum(before) - tl.sum(own)
        position += tl.where(served, shift, rest)
    tl.store(placed + position, chunk * CHUNK + source, mask=stored)
    write_tiles(
        tl.arange(0, EXPERTS),
        total,
        expert_start,
        tile_expert,
        tile_start,
        tile_stop,
        experts,
        bound,
        chunk,
        chunks,
        BLOCK_T,
        EXPERTS,
    )


@triton.jit
def _add_counts(
    counts,
    chunk,
    chunks,
    COUNTS_AT_ONCE: tl.constexpr,  # noqa: N803
    EXPERTS: tl.constexpr,  # noqa: N803
):
    """Slots of each expert [EXPERTS]: of all chunks, of those before, of this one."""
    expert = tl.arange(0, EXPERTS)
    total = tl.zeros([EXPERTS], tl.int32)
    before = tl.zeros([EXPERTS], tl.int32)
    for first in range(0, chunks, COUNTS_AT_ONCE):
        c = first + tl.arange(0, COUNTS_AT_ONCE)[:, None]
        count = tl.load(
            counts + c * EXPERTS + expert[None, :], mask=c < chunks, other=0
        )
        total += tl.sum(count, axis=0)
        before += tl.sum(tl.where(c < chunk, count, 0), axis=0)
    own = tl.load(counts + chunk * EXPERTS + expert)
    return total, before, own
