"""`kernels.triton_moe.route_and_dispatch`: `route` and `dispatch` in one launch."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from dataclasses import fields

import pytest
import torch
from hypothesis import example
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from triton import knobs

from mxmoe.kernels.triton_moe.combine import combine
from mxmoe.kernels.triton_moe.dispatch import Dispatch
from mxmoe.kernels.triton_moe.dispatch import dispatch
from mxmoe.kernels.triton_moe.route import route
from mxmoe.kernels.triton_moe.route_and_dispatch import route_and_dispatch
from mxmoe.kernels.triton_moe.router_logits import router_logits
from mxmoe.reference import routing as reference

INTERPRETED = knobs.runtime.interpret
BF16 = torch.bfloat16


@dataclass(frozen=True)
class Case:
    tokens: int
    all_experts: int
    top_k: int
    ranks: int = 1
    rank: int = 0
    block_t: int = 16
    skew: float = 0.0
    seed: int = 0

    def logits(self, device: torch.device | str) -> torch.Tensor:
        """float32 [t, e]; a skew of 100 sends every token to the same experts."""
        draw = torch.Generator().manual_seed(self.seed)
        drawn = torch.randn(self.tokens, self.all_experts, generator=draw)
        return (drawn + self.skew * torch.arange(self.all_experts)).to(device)

    def options(self) -> dict[str, int]:
        experts = self.all_experts // self.ranks
        first = self.rank * experts
        return {"first_expert": first, "experts": experts, "block_t": self.block_t}


@st.composite
def cases(draw: st.DrawFn) -> Case:
    ranks = draw(st.integers(1, 3))
    # On a GPU, every padded size is compiled.
    experts = ranks * draw(
        st.integers(1, 6) if INTERPRETED else st.sampled_from([5, 40])
    )
    return Case(
        tokens=draw(st.integers(0, 6 if INTERPRETED else 70)),
        all_experts=experts,
        top_k=draw(st.integers(1, min(experts, 8))),
        ranks=ranks,
        rank=draw(st.integers(0, ranks - 1)),
        block_t=draw(st.sampled_from([1, 2, 16, 64])),
        skew=draw(st.sampled_from([0.0, 100.0])),
        seed=draw(st.integers(0, 2**16)),
    )


def check(case: Case, device: torch.device) -> None:
    logits, options = case.logits(device), case.options()
    routing, found = route_and_dispatch(
        logits, case.top_k, routed_scaling=2.5, **options
    )
    expected = route(logits, case.top_k, routed_scaling=2.5)
    assert torch.equal(expected.ids, routing.ids)
    assert torch.allclose(expected.weights, routing.weights, rtol=1e-6, atol=1e-30)
    wanted = dispatch(expected.ids, **options)
    for field in fields(Dispatch):
        ours, theirs = getattr(found, field.name), getattr(wanted, field.name)
        assert torch.equal(theirs, ours), field.name


@settings(max_examples=15 if INTERPRETED else 30, deadline=None)
@given(case=cases())
@example(case=Case(1, 128, 4))
@example(case=Case(3, 12, 5, ranks=3, rank=1, block_t=2))
def test_one_launch_gives_what_the_separate_ones_do(case, device) -> None:
    check(case, device)


def test_every_row_of_special_values_is_ranked_like_the_reference(device) -> None:
    """All rows of four from {NaN, -Inf, -0, Inf}, in one launch."""
    rows = itertools.product((math.nan, -math.inf, -0.0, math.inf), repeat=4)
    logits = torch.tensor(list(rows), device=device)
    routing, made = route_and_dispatch(logits, 3, first_expert=0, experts=4, block_t=64)
    assert torch.equal(reference.route(logits.cpu(), 3).ids, routing.ids.cpu())
    assert made.expert_start[-1] == 3 * len(logits)


@pytest.mark.parametrize("tokens", [1, 2, 3, 5, 8, 16, 33, 64, 128, 500, 2048, 8192])
def test_all_sizes_on_a_gpu(tokens, native) -> None:
    sizes = ((4, 1), (8, 8), (32, 2), (128, 4), (256, 8))
    for (experts, top_k), skew in itertools.product(sizes, (0.0, 100.0)):
        check(Case(tokens, experts, top_k, skew=skew), native)
        check(Case(tokens, experts, top_k, ranks=2, rank=1, skew=skew), native)


@pytest.mark.parametrize("tokens", [1, 8, 32, 64, 256, 2048])
def test_a_graph_captures_it_and_replays_with_other_values(tokens, native) -> None:
    """A host that waited for the device would end the capture with an error.

    An expert's output is here the token itself, so that the sum of a token's weights,
    1, gives the token back.
    """
    x = torch.empty(tokens, 2880, dtype=BF16, device=native)
    weight = torch.randn(128, 2880, device=native).to(BF16) / 50
    out = torch.empty_like(x)

    def layer() -> tuple[torch.Tensor, ...]:
        logits = router_logits(x, weight, None)
        routing, made = route_and_dispatch(
            logits, 4, first_expert=0, experts=128, block_t=16
        )
        y = x.repeat_interleave(4, dim=0)
        combine(
            y[None], routing.ids, routing.weights, first_expert=0, experts=128, out=out
        )
        tensors = (getattr(made, field.name) for field in fields(Dispatch))
        return routing.ids, routing.weights, out, *tensors

    x.normal_()
    layer()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = layer()
    for _ in range(100):
        x.normal_()
        graph.replay()
        replayed = [tensor.clone() for tensor in captured]
        for once, again in zip(layer(), replayed, strict=True):
            assert torch.equal(once, again)
        assert torch.allclose(out.float(), x.float(), rtol=2.0**-8)
