"""`kernels.triton_moe.route`: the reference's ids, bit for bit, and its weights."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import example
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from triton import knobs

from mxmoe.conformance.bounds.routing import weight_bound
from mxmoe.kernels.triton_moe.route import route
from mxmoe.reference import routing as reference
from mxmoe.reference.types import Routing

INTERPRETED = knobs.runtime.interpret
INF, NAN = math.inf, math.nan
SPECIAL = torch.tensor([NAN, -NAN, INF, -INF, 0.0, -0.0, 1.0, -1.0, 3e38, -3e38])


@dataclass(frozen=True)
class Case:
    tokens: int
    experts: int
    top_k: int
    seed: int = 0
    values: str = "normal"
    spread: int = 1
    scaling: float = 1.0

    def logits(self, device: torch.device | str) -> torch.Tensor:
        """float32 [t, e]; `spread` > 1 gives it strides."""
        draw = torch.Generator().manual_seed(self.seed)
        shape = (self.tokens, self.experts * self.spread)
        drawn = 3 * torch.randn(shape, generator=draw)
        if self.values == "ties":
            drawn = drawn.round()
        if self.values == "special":
            drawn = SPECIAL[torch.randint(len(SPECIAL), shape, generator=draw)]
        return drawn.to(device)[:, :: self.spread]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    experts = draw(st.integers(1, 20 if INTERPRETED else 1024))
    return Case(
        tokens=draw(st.integers(0, 3 if INTERPRETED else 300)),
        experts=experts,
        top_k=draw(st.integers(1, min(experts, 8))),
        seed=draw(st.integers(0, 2**16)),
        values=draw(st.sampled_from(["normal", "ties", "special"])),
        spread=draw(st.integers(1, 2)),
        scaling=draw(st.sampled_from([1.0, 2.5])),
    )


def check(routing: Routing, logits: torch.Tensor, scaling: float = 1.0) -> None:
    """Ids bit for bit; weights NaN where the reference's are, else in their bound."""
    logits, ids, weights = logits.cpu(), routing.ids.cpu(), routing.weights.cpu()
    expected = reference.route(logits, ids.shape[1], routed_scaling=scaling)
    assert expected.ids.dtype == ids.dtype
    assert torch.equal(expected.ids, ids)
    assert weights.dtype == torch.float32
    assert torch.equal(expected.weights.isnan(), weights.isnan())
    number = ~weights.isnan().any(dim=1)
    chosen = logits.double().gather(1, ids.long())[number]
    exact = torch.softmax(chosen, dim=1)
    # Where exp is 0 anyway, an infinite distance is as good as this one.
    bound = weight_bound(chosen.clamp(chosen.amax(1, True) - 1e3), exact, weights.dtype)
    allowed = scaling * (bound + 2.0**-24 * exact)
    assert (weights[number] - scaling * exact).abs().le(allowed).all()


@settings(max_examples=15 if INTERPRETED else 30, deadline=None)
@given(case=cases())
@example(case=Case(2, 128, 4))
@example(case=Case(2, 4, 4, values="ties"))
@example(case=Case(2, 17, 17, values="special"))
def test_ids_and_weights_are_those_of_the_reference(case, device) -> None:
    logits = case.logits(device)
    before = logits.clone()
    routing = route(logits, case.top_k, routed_scaling=case.scaling)
    check(routing, before, case.scaling)
    assert torch.equal(before.view(torch.int32), logits.contiguous().view(torch.int32))


def test_every_row_of_special_values_is_ranked_like_the_reference(device) -> None:
    """All rows of four from {NaN, -Inf, -0, +0, Inf}, or of two in the interpreter.

    Ids are distinct and in range in every one of them.
    """
    width = 2 if INTERPRETED else 4
    rows = list(itertools.product((NAN, -INF, -0.0, 0.0, INF), repeat=width))
    logits = torch.tensor(rows, device=device)
    routing = route(logits, width)
    check(routing, logits)
    assert routing.ids.sort(dim=1).values.eq(torch.arange(width, device=device)).all()


@pytest.mark.parametrize("experts", [4, 128])
def test_equal_logits_choose_the_first_experts_in_order(experts, device) -> None:
    routing = route(torch.full((2, experts), 0.5, device=device), 4)
    assert [[0, 1, 2, 3]] * 2 == routing.ids.tolist()
    assert [[0.25] * 4] * 2 == routing.weights.tolist()


def test_no_tokens_give_an_empty_routing(device) -> None:
    routing = route(torch.zeros(0, 8, device=device), 2)
    assert ((0, 2), (0, 2)) == (tuple(routing.ids.shape), tuple(routing.weights.shape))


@pytest.mark.parametrize("tokens", [1, 2, 3, 5, 33, 500, 8192])
def test_all_sizes_on_a_gpu(tokens, native) -> None:
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    for experts, dtype in itertools.product((4, 8, 32, 128, 256, 1024), dtypes):
        logits = Case(tokens, experts, 0).logits(native).to(dtype)
        for top_k in (1, 2, 4, min(8, experts)):
            check(route(logits, top_k), logits)


def test_every_expert_can_be_chosen_on_a_gpu(native) -> None:
    logits = Case(3, 256, 0, values="ties").logits(native)
    check(route(logits, 256), logits)
