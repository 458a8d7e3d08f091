"""Each stage is judged from the candidate's own stage before it."""

from __future__ import annotations

import pytest

from mxmoe.conformance.bounds.compare_numbers import compare_numbers
from mxmoe.conformance.bounds.own import Layer
from mxmoe.conformance.bounds.own import judge_own
from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.designed import make_case_data
from mxmoe.reference.moe import moe
from mxmoe.reference.types import ARITHMETIC
from mxmoe.reference.types import WHOLE
from mxmoe.reference.types import MoEConfig

CONFIG = MoEConfig(hidden=64, intermediate=96, experts=4, top_k=2)
STAGES = ("gate_up", "activation", "down", "combine")


def layer(name: str) -> Layer:
    data = make_case_data(Case(config=CONFIG, tokens=17))
    return Layer(
        part=data.weights,
        config=CONFIG,
        hidden_states=data.hidden_states,
        routing=data.routing,
        shard=WHOLE,
        arithmetic=ARITHMETIC[name],
    )


@pytest.mark.parametrize("name", ARITHMETIC)
def test_an_honest_computation_is_within_its_own_bounds(name: str) -> None:
    at = layer(name)
    trace = moe(at.part, CONFIG, at.hidden_states, at.routing, arithmetic=at.arithmetic)
    own = judge_own(at, trace.stages)
    for stage in STAGES:
        found = compare_numbers(trace[stage], own.truth[stage], own.allowed[stage])
        assert found.within, stage


@pytest.mark.parametrize("wrong", STAGES)
def test_only_the_stage_that_errs_is_blamed(wrong: str) -> None:
    at = layer("w4a16_fp32acc")
    stages = {}
    for stage in STAGES:
        # From the spoilt stage before, as a kernel would go on.
        truth = judge_own(at, stages).truth[stage]
        kept = at.arithmetic.output if stage in ("activation", "combine") else None
        stages[stage] = (truth if stage != wrong else truth * 1.1 + 1).to(
            kept or truth.dtype
        )
    own = judge_own(at, stages)
    blamed = [
        stage
        for stage in STAGES
        if not compare_numbers(
            stages[stage], own.truth[stage], own.allowed[stage]
        ).within
    ]
    assert blamed == [wrong]
