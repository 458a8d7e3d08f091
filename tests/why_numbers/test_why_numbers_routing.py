"""A wrong `route` is told what it does."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from mxmoe.conformance.cases.logits import LOGIT_KINDS
from mxmoe.conformance.cases.logits import make_logits
from mxmoe.conformance.why_numbers.routing import why_choice
from mxmoe.conformance.why_numbers.routing import why_weights
from mxmoe.reference.routing import route

Tensor = torch.Tensor
LOGITS = make_logits("distinct", tokens=67, experts=32)
TOP_K = 4


def _with_sum_added(chosen: Tensor, added: float) -> Tensor:
    powers = (chosen - chosen.amax(dim=1, keepdim=True)).exp()
    return powers / (powers.sum(dim=1, keepdim=True) + added)


WEIGHTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "softmax over all experts, not only the chosen": lambda x, ids: x.softmax(1).gather(
        1, ids
    ),
    "exp2 in place of exp": lambda x, ids: (
        (math.log(2) * x.gather(1, ids)).softmax(1).float()
    ),
    "softmax of 0.5 times the logits": lambda x, ids: (x.gather(1, ids) / 2).softmax(1),
    "all weights times 2.5": lambda x, ids: 2.5 * x.gather(1, ids).softmax(1),
    "weights from small to large": lambda x, ids: x.gather(1, ids).softmax(1).flip(1),
    "weights of the next token": lambda x, ids: x.gather(1, ids).softmax(1).roll(-1, 0),
    "weights rounded to bfloat16": lambda x, ids: (
        x.gather(1, ids).softmax(1).bfloat16().float()
    ),
    "weights rounded to float16": lambda x, ids: (
        x.gather(1, ids).softmax(1).half().float()
    ),
    "logits rounded to bfloat16": lambda x, ids: (
        x.gather(1, ids).bfloat16().float().softmax(1)
    ),
    "sigmoids, which are not made to sum to 1": lambda x, ids: x.gather(
        1, ids
    ).sigmoid(),
    "equal weights": lambda x, ids: torch.full(ids.shape, 0.25),
    "softmax of sigmoids of the logits": lambda x, ids: (
        x.gather(1, ids).sigmoid().softmax(1)
    ),
    "softmax of 30 tanh(logit / 30)": lambda x, ids: (
        30 * (x.gather(1, ids) / 30).tanh()
    ).softmax(1),
    "weights divided by their sum + 0.01": lambda x, ids: _with_sum_added(
        x.gather(1, ids), 0.01
    ),
}
CHOICES: dict[str, Callable[[Tensor], Tensor]] = {
    "the smallest logits chosen": lambda x: route(-x, TOP_K).ids,
    "chosen by the size of logits, whatever their sign": lambda x: (
        route(x.abs(), TOP_K).ids
    ),
    "only the first 16 experts can be chosen": lambda x: route(x[:, :16], TOP_K).ids,
    "the largest left out": lambda x: route(x, TOP_K + 1).ids[:, 1:],
    "the largest chosen for every slot": lambda x: route(x, 1).ids.expand(-1, TOP_K),
    "the choice of the previous token": lambda x: route(x, TOP_K).ids.roll(1, 0),
    "expert 31 never chosen": lambda x: route(x[:, :31], TOP_K).ids,
    "the 2 largest of each of 2 groups of experts chosen": lambda x: torch.cat(
        (route(x[:, :16], 2).ids, route(x[:, 16:], 2).ids + 16), dim=1
    ),
    "ids +1": lambda x: route(x, TOP_K).ids + 1,
}


@pytest.mark.parametrize("cause", WEIGHTS)
def test_the_cause_of_wrong_weights_is_named_alone(cause: str) -> None:
    ids = route(LOGITS, TOP_K).ids.long()
    found = WEIGHTS[cause](LOGITS, ids)
    assert why_weights(found, LOGITS, ids) == [f"why    behaves as if: {cause}"]


@pytest.mark.parametrize("cause", CHOICES)
def test_the_cause_of_wrong_ids_is_named_alone(cause: str) -> None:
    found = CHOICES[cause](LOGITS)
    assert why_choice(found, LOGITS, TOP_K) == [f"why    behaves as if: {cause}"]


def test_one_wrong_row_is_not_explained_by_what_the_others_do() -> None:
    routing = route(LOGITS, TOP_K)
    weights, ids = routing.weights.clone(), routing.ids.clone()
    weights[5] = 0.1
    ids[5] = torch.arange(TOP_K)
    assert why_weights(weights, LOGITS, routing.ids.long()) == []
    assert why_choice(ids, LOGITS, TOP_K) == []


@settings(deadline=None)
@given(data=st.data())
def test_any_wrong_routing_gets_at_most_one_line(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(LOGIT_KINDS))
    experts = data.draw(st.sampled_from((1, 2, 8, 60)))
    top_k = data.draw(st.integers(1, min(experts, 6)))
    dtype = data.draw(st.sampled_from((torch.float32, torch.bfloat16)))
    logits = make_logits(kind, tokens=5, experts=experts).to(dtype)
    numbers = st.sampled_from((0.0, -1.0, 0.25, 1e30, math.nan, math.inf, -math.inf))
    size = 5 * top_k
    weights = data.draw(st.lists(numbers, min_size=size, max_size=size))
    ids = data.draw(st.lists(st.integers(-2, experts), min_size=size, max_size=size))
    chosen = torch.tensor(ids).view(5, top_k)
    kept = chosen.clamp(0, experts - 1)
    assert len(why_weights(torch.tensor(weights).view(5, top_k), logits, kept)) <= 1
    assert len(why_choice(chosen, logits, top_k)) <= 1
