"""L3: stages and output within the bound of the declared arithmetic class."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mxmoe.conformance.cases.case import HOT_SPOTS
from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.strategies import GPT_OSS_SHAPE
from mxmoe.conformance.cases.strategies import MANY_EXPERTS
from mxmoe.conformance.cases.strategies import MANY_TOKENS
from mxmoe.conformance.cases.strategies import SILU_SHAPE
from mxmoe.conformance.judging import tokens as judge_tokens
from mxmoe.conformance.judging.fused import judge_fused
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.judging.numbers import judge_every_tactic
from mxmoe.conformance.judging.numbers import judge_output
from mxmoe.conformance.judging.numbers import own_route
from mxmoe.conformance.judging.structure import judge_structure
from mxmoe.conformance.judging.trace import judge_trace
from mxmoe.conformance.suite.places import for_each
from mxmoe.conformance.suite.places import layer_routes
from mxmoe.conformance.verdict import Verdict
from mxmoe.conformance.verdict import not_run
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Shard

pytestmark = [pytest.mark.numeric, pytest.mark.level("L3")]

EXAMPLES = (
    Case(config=SILU_SHAPE, tokens=33),
    Case(config=MANY_EXPERTS, tokens=65),
    Case(config=MANY_EXPERTS, shard=Shard(ep_size=2, ep_rank=1), tokens=33),
    Case(config=MANY_TOKENS, tokens=1025),
    Case(config=GPT_OSS_SHAPE, tokens=3),
    Case(config=GPT_OSS_SHAPE, shard=Shard(tp_size=8, tp_rank=7), tokens=3),
)

# Enough elements to see a gain of 0.1 %, or of 0.2 % along one expert; the weights of
# the checkpoint.
GAIN_EXAMPLES = (
    Case(config=MoEConfig(hidden=160, intermediate=96, experts=4, top_k=2), tokens=65),
    Case(layer=0, tokens=33),
)

# The first that the candidate supports is judged: small, then the real width.
TOKEN_EXAMPLES = (
    Case(
        config=MoEConfig(hidden=64, intermediate=96, experts=4, top_k=2),
        tokens=max(judge_tokens.TOKEN_COUNTS),
    ),
    Case(config=GPT_OSS_SHAPE, tokens=33),
)


@for_each(layer_routes)
def test_layer_output_stays_within_the_bound(
    judge: Judge, place: tuple[int, str]
) -> None:
    """A layer of the checkpoint, in each cell of the attribution matrix."""
    layer, route = place
    asked = judge.settings.case
    if asked is not None and asked.layer != layer:
        raise not_run(f"--case asks for {asked}")
    config = judge.settings.checkpoint.config
    # A tail of tokens, and enough of them to reach every expert.
    tokens = max(19, -(-config.experts // config.top_k))
    judge.for_example(
        lambda judge, case: judge_output(judge, case, route),
        [Case(layer=layer, tokens=tokens)],
    )


def test_output_stays_within_the_bound(judge: Judge) -> None:
    """Drawn shapes, shards, token counts and hot spots."""
    route = own_route(judge.subject)
    judge.for_all(
        lambda judge, case: judge_output(judge, case, route),
        hot=tuple(HOT_SPOTS),
        examples=EXAMPLES,
    )


def test_errors_within_the_bound_are_unsystematic(judge: Judge) -> None:
    """No gain along an expert, a bias, the input or output; no group of wide errors."""
    judge.need_right_output()
    judge.for_all(
        judge_structure,
        hot=tuple(HOT_SPOTS),
        tokens=(17, 33, 65),
        examples=GAIN_EXAMPLES,
        share=0.25,
    )


@pytest.mark.parametrize("spot", HOT_SPOTS)
def test_hot_spot_stays_within_the_bound(judge: Judge, spot: str) -> None:
    """Each hot spot by itself."""
    judge.need_right_output()
    route = own_route(judge.subject)
    judge.for_all(
        lambda judge, case: judge_output(judge, case, route),
        always=(spot,),
        tokens=(1, 5, 33),
        share=0.25,
    )


def test_every_token_count_stays_within_the_bound(judge: Judge) -> None:
    """1 to 136 tokens and both sides of 256, each with the same weights."""
    judge.subject.need("forward")
    judge.need_right_output()
    judge.for_example(judge_tokens.every_token_count, TOKEN_EXAMPLES)


def test_a_token_that_is_not_finite_spoils_no_other(judge: Judge) -> None:
    """NaN and Inf in one token's hidden states stay with that token."""
    judge.subject.need("forward")
    judge.need_right_output()
    judge.for_example(judge_tokens.bad_neighbour, TOKEN_EXAMPLES)


def test_every_tactic_stays_within_the_bound(judge: Judge) -> None:
    """Each tactic that the candidate enumerates is forced."""
    judge.subject.need("forward")
    if judge.subject.capabilities.tactics is None:
        raise not_run("declares no tactics")
    judge.for_all(judge_every_tactic, examples=EXAMPLES)


def test_traced_stages_stay_within_the_bound(judge: Judge) -> None:
    """Each exposed stage, so that a fault is seen where it happens."""
    judge.subject.need("trace")
    judge.for_all(judge_trace, hot=tuple(HOT_SPOTS))


def test_fused_routing_stays_within_the_bound(judge: Judge) -> None:
    """`forward_fused` against the reference's own routing, away from ties."""
    judge.subject.need("forward_fused")
    judge.for_all(
        judge_fused,
        hot=("strided", "saturated", "zero_scale"),
        tokens=(1, 5, 33),
        examples=(EXAMPLES[0], replace(EXAMPLES[1], hot=("strided",))),
    )


@pytest.mark.needs_option("required_class")
def test_declared_class_is_the_required_one(judge: Judge) -> None:
    """`--require-class` pins the arithmetic that a candidate may ask for."""
    required = judge.settings.required_class
    declared = judge.subject.arithmetic.name
    if declared != required:
        raise judge.fail(
            Verdict.MISMATCH,
            [f"expected class {required}, found a declaration of {declared}"],
            what="arithmetic class",
        )
