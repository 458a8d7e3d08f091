"""A hypothesis about what went in is recovered from what came out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.designed import make_case_data
from mxmoe.conformance.why_numbers.hypotheses import explain_numbers
from mxmoe.conformance.why_numbers.hypotheses import hypotheses
from mxmoe.conformance.why_numbers.layer_steps import Situation
from mxmoe.reference.moe import moe_of_rank
from mxmoe.reference.sharding import shard_weights
from mxmoe.reference.types import ARITHMETIC
from mxmoe.reference.types import SILU
from mxmoe.reference.types import WHOLE
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Shard

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = MoEConfig(hidden=96, intermediate=192, experts=4, top_k=3)
WEIGHTS = make_case_data(Case(config=CONFIG, tokens=1)).weights


def situation(
    shard: Shard = WHOLE, config: MoEConfig = CONFIG, *, tokens: int = 4
) -> Situation:
    data = make_case_data(Case(config=config, shard=shard, tokens=tokens))
    return Situation(
        part=shard_weights(data.weights, config, shard),
        config=config,
        hidden_states=data.hidden_states,
        routing=data.routing,
        shard=shard,
    )


def output(s: Situation, arithmetic: str = "w4a16_fp32acc") -> torch.Tensor:
    return moe_of_rank(
        s.part,
        s.config,
        s.hidden_states,
        s.routing,
        shard=s.shard,
        arithmetic=ARITHMETIC[arithmetic],
    )["combine"]


SILU_CONFIG = replace(CONFIG, activation=SILU, has_bias=False)
SMALL = MoEConfig(hidden=64, intermediate=64, experts=3, top_k=2)
SITUATIONS = {
    "whole": situation(config=SMALL, tokens=2),
    "tp3r1": situation(Shard(tp_size=3, tp_rank=1)),
    "ep2r1": situation(Shard(ep_size=2, ep_rank=1)),
    "silu": situation(config=SILU_CONFIG),
}
# All of them where everything applies, and those that a rank or silu changes.
ELSEWHERE = (
    "down bias times 3: not divided by tp = 3",
    "down_bias: rows reversed",
    "routing weights uniform (1/k)",
    "gate and up swapped",
    "last K block of gate_up and down dropped",
)


def by_day(key: str, name: str) -> bool:
    """Whether nothing alike is tried: an edit of bytes by day in one tensor only."""
    tensor, _, edit = name.partition(": ")
    if key != "whole" or not edit:
        return name in (*ELSEWHERE, tensor)
    known = [known for known, _ in hypotheses(SITUATIONS[key])]
    return name == next(n for n in known if n.endswith(f": {edit}"))


HYPOTHESES = [
    pytest.param(
        s,
        name,
        hypothesis,
        id=f"{key}-{name}",
        marks=() if by_day(key, name) else pytest.mark.nightly,
    )
    for key, s in SITUATIONS.items()
    for name, hypothesis in hypotheses(s)
    if key == "whole" or name in ELSEWHERE
]


@pytest.mark.usefixtures("truths_once")
@pytest.mark.parametrize(("s", "name", "hypothesis"), HYPOTHESES)
def test_a_hypothesis_is_recovered_from_a_candidate_that_has_it(
    s: Situation, name: str, hypothesis: Callable[[Situation], Situation]
) -> None:
    arithmetic = ARITHMETIC["w4a16_fp32acc"]
    assert name in explain_numbers(output(hypothesis(s)), s, arithmetic)


@pytest.mark.parametrize("key", SITUATIONS)
def test_nothing_is_claimed_for_a_correct_output(key: str) -> None:
    s = SITUATIONS[key]
    assert explain_numbers(output(s), s, ARITHMETIC["w4a16_fp32acc"]) == []


def test_nothing_is_claimed_for_noise() -> None:
    s = situation()
    noise = output(s) * (1 + 0.02 * torch.randn(4, 96, generator=torch.manual_seed(0)))
    assert explain_numbers(noise, s, ARITHMETIC["w4a16_fp32acc"]) == []


def test_nothing_is_searched_in_a_layer_that_is_too_large() -> None:
    large = situation(config=replace(CONFIG, experts=128), tokens=2)
    zero = torch.zeros(2, CONFIG.hidden)
    assert explain_numbers(zero, large, ARITHMETIC["w4a16_fp32acc"]) == []
