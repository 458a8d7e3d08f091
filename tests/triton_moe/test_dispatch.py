"""`kernels.triton_moe.dispatch`: stable, dense, complete, whatever the ids are."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from dataclasses import fields

import pytest
import torch
from hypothesis import example
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from triton import knobs

from mxmoe.kernels.triton_moe import dispatch as module
from mxmoe.kernels.triton_moe.dispatch import Dispatch
from mxmoe.kernels.triton_moe.dispatch import dispatch
from mxmoe.kernels.triton_moe.dispatch import tile_bound

INTERPRETED = knobs.runtime.interpret
KINDS = ("uniform", "elsewhere", "one", "none")


@dataclass(frozen=True)
class Case:
    tokens: int
    top_k: int
    experts: int
    first_expert: int = 0
    block_t: int = 16
    ids: str = "uniform"
    seed: int = 0
    spread: int = 1
    dtype: torch.dtype = torch.int32

    def drawn(self, device: torch.device | str) -> torch.Tensor:
        """Ids [t, k]; those of other ranks and -1 among them if the kind says so."""
        draw = torch.Generator().manual_seed(self.seed)
        low, high = self.first_expert, self.first_expert + self.experts
        if self.ids == "elsewhere":
            low, high = -1, high + self.experts
        if self.ids == "one":
            low, high = high - 1, high
        if self.ids == "none":
            low, high = -1, 0
        shape = (self.tokens, self.top_k * self.spread)
        ids = torch.randint(low, high, shape, generator=draw, dtype=self.dtype)
        return ids.to(device)[:, :: self.spread]

    def options(self) -> dict[str, int]:
        names = ("first_expert", "experts", "block_t")
        return {name: getattr(self, name) for name in names}


def expected(ids: torch.Tensor, case: Case) -> Dispatch:
    """By the words of the contract, one slot at a time."""
    local = [i - case.first_expert for i in ids.flatten().tolist()]
    of_expert: list[list[int]] = [[] for _ in range(case.experts)]
    rest: list[int] = []
    for slot, expert in enumerate(local):
        (of_expert[expert] if 0 <= expert < case.experts else rest).append(slot)
    slots = [slot for found in of_expert for slot in found] + rest
    starts, tiles = [0], []
    for expert, found in enumerate(of_expert):
        steps = range(0, len(found), case.block_t)
        stop = starts[-1] + len(found)
        firsts = [starts[-1] + step for step in steps]
        tiles += [(expert, i, min(stop, i + case.block_t)) for i in firsts]
        starts.append(stop)
    bound = tile_bound(len(local), case.experts, case.block_t)
    tiles += [(-1, 0, 0)] * (bound - len(tiles))
    lists = (slots, starts, *([tile[n] for tile in tiles] for n in range(3)))
    return Dispatch(*(torch.tensor(row, dtype=torch.int32) for row in lists))


def check(case: Case, device: torch.device) -> None:
    ids = case.drawn(device)
    found, wanted = dispatch(ids, **case.options()), expected(ids, case)
    for field in fields(Dispatch):
        ours, theirs = getattr(found, field.name).cpu(), getattr(wanted, field.name)
        assert ours.dtype == theirs.dtype
        assert torch.equal(theirs, ours), (field.name, case)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    most = 6 if INTERPRETED else 700
    # On a GPU, every padded size is compiled.
    experts = draw(st.integers(1, 9) if INTERPRETED else st.sampled_from([1, 100, 256]))
    return Case(
        tokens=draw(st.integers(0, most)),
        top_k=draw(st.integers(1, 5)),
        experts=experts,
        first_expert=draw(st.sampled_from([0, experts, 3 * experts])),
        block_t=draw(st.sampled_from([1, 2, 16, 64])),
        ids=draw(st.sampled_from(KINDS)),
        seed=draw(st.integers(0, 2**16)),
        spread=draw(st.integers(1, 2)),
        dtype=draw(st.sampled_from([torch.int32, torch.int64])),
    )


@settings(max_examples=15 if INTERPRETED else 30, deadline=None)
@given(case=cases())
@example(case=Case(1, 4, 128))
@example(case=Case(5, 3, 2, block_t=2, ids="elsewhere"))
def test_dispatch_is_that_of_the_contract(case, device) -> None:
    check(case, device)


@pytest.mark.parametrize("ids", KINDS)
@pytest.mark.parametrize("tokens", [33] if INTERPRETED else [17, 33])
def test_several_chunks_make_one_dispatch(tokens, ids, device, monkeypatch) -> None:
    """Chunks of 32 slots: the counts of 5 are added 2 at a time."""
    monkeypatch.setattr(module, "_CHUNK", 32)
    monkeypatch.setattr(module, "_COUNTS_AT_ONCE", 2)
    check(Case(tokens, 4, 6, first_expert=6, block_t=2, ids=ids), device)


def test_the_bound_is_reached_and_never_exceeded() -> None:
    """Every way to give 9 slots to 3 experts or to none."""
    for block_t in (1, 2, 4, 16):
        most = max(
            sum(-(-c // block_t) for c in (a, b, c))
            for a in range(10)
            for b in range(10 - a)
            for c in range(10 - a - b)
        )
        bound = tile_bound(9, 3, block_t)
        assert most <= bound <= most + 1, block_t
    assert [0, 1, 4] == [tile_bound(n, 128, 64) for n in (0, 1, 4)]
    assert 128 + 32768 // 64 == tile_bound(32768, 128, 64)


@pytest.mark.parametrize("tokens", [1, 2, 3, 5, 8, 16, 33, 64, 128, 500, 2048, 8192])
def test_all_sizes_on_a_gpu(tokens, native) -> None:
    sizes = ((4, 1), (8, 8), (32, 2), (128, 4), (256, 8))
    for (experts, top_k), ids in itertools.product(sizes, KINDS):
        check(Case(tokens, top_k, experts, first_expert=3, ids=ids), native)


def test_a_dispatch_is_the_same_every_time_on_a_gpu(native) -> None:
    for case in (Case(8, 4, 128), Case(8192, 4, 128, ids="elsewhere")):
        ids = case.drawn(native)
        first = dispatch(ids, **case.options())
        for _ in range(200):
            again = dispatch(ids, **case.options())
            for field in fields(Dispatch):
                same = torch.equal(
                    getattr(first, field.name), getattr(again, field.name)
                )
                assert same, field.name
