"""Roundings that follow from bias and routing weight are held against nobody."""

from __future__ import annotations

import pytest
import torch

from mxmoe.conformance.bounds.propagated import judge_rank
from mxmoe.conformance.cases.case import parse_case
from mxmoe.conformance.cases.designed import make_case_data
from mxmoe.conformance.judging.structure import structure_lines
from mxmoe.conformance.residual.structure import Situation
from mxmoe.reference.sharding import shard_weights
from mxmoe.reference.types import ARITHMETIC
from mxmoe.reference.types import Routing

# Rank 1 of 2 has no lanes: an output is a routing weight times half the bias.
WITHOUT_LANES = parse_case("e2k2h384i32/tp2r1-ep2r1/t65/s700")
WITH_LANES = parse_case("e2k2h384i64/tp2r1-ep2r1/t65/s700")


def judged(case: object, weight: float, factor: float = 1.0) -> list[str]:
    """What is said of outputs rounded honestly, times `factor` before.

    weight : the routing weight of expert 1, but for one part in 10,000 and a power of
    two in each token: outputs differ, and their roundings are alike.
    """
    data = make_case_data(case)
    near = weight * (1 + torch.linspace(-1e-4, 1e-4, case.tokens))
    one = torch.ldexp(near, -(torch.arange(case.tokens) % 6))[:, None]
    weights = torch.where(data.routing.ids == 1, one, 1 - one)
    routing = Routing(data.routing.ids, weights)
    arithmetic = ARITHMETIC["w4a16_fp32acc"]
    part = shard_weights(data.weights, data.config, case.shard)
    layer = (part, data.config, data.hidden_states, routing)
    found = judge_rank(*layer, shard=case.shard, arithmetic=arithmetic)
    truth = found.truth["combine"]
    situation = Situation(
        part=part,
        config=data.config,
        hidden_states=data.hidden_states,
        routing=routing,
        shard=case.shard,
        arithmetic=arithmetic,
        truth=found.truth,
        allowed=found.allowed["combine"],
    )
    out = (factor * truth).to(arithmetic.output).double()
    _, lines = structure_lines(situation, out - truth)
    return lines


@pytest.mark.parametrize("weight", [0.999, 1.0005, 0.5014, 0.031336, 0.25])
def test_biases_times_one_weight_may_round_alike(weight: float) -> None:
    assert judged(WITHOUT_LANES, weight) == []


def test_where_lanes_contribute_a_factor_is_seen_as_ever() -> None:
    assert judged(WITH_LANES, 0.7) == []
    (first, *_) = judged(WITH_LANES, 0.7, factor=1.002)
    assert first.startswith("gain along ")
