"""What is systematic within the bound has a cause only if that is the whole of it."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from mxmoe.conformance.cases.case import parse_case
from mxmoe.conformance.faults.plain import PLAIN
from mxmoe.conformance.faults.plain import Tensor
from mxmoe.conformance.faults.plain import changed
from mxmoe.conformance.faults.plain import subject_of
from mxmoe.conformance.faults.plain import swiglu
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.judging.structure import judge_structure
from mxmoe.conformance.judging.structure import structure_lines
from mxmoe.conformance.judging.trial import repeatable_settings
from mxmoe.conformance.residual.structure import Situation
from mxmoe.conformance.settings import Settings
from mxmoe.conformance.verdict import Failure
from mxmoe.reference.types import Routing

pytestmark = pytest.mark.usefixtures("one_thread")

# Two experts of the checkpoint's size, and weights of one size in each block.
LAYER, WIDE = "layer0/tp1r0/t33/s0", "e4k2h160i96/tp1r0/t65/s0"


@pytest.fixture(scope="module")
def settings() -> Iterator[Settings]:
    with repeatable_settings(layers=(0,)) as found:
        yield found


def text_of(candidate: object, word: str, settings: Settings) -> str:
    """What is said of errors within the bound; "" if they are unsystematic."""
    judge = Judge(subject_of(candidate), settings, "test")
    try:
        judge_structure(judge, parse_case(word))
    except Failure as failure:
        return failure.text
    return ""


def weighing(edit: Callable[[Tensor, Tensor], Tensor]) -> object:
    """`edit` of routing weights and ids."""

    def forward(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
        return PLAIN.forward(p, x, Routing(r.ids, edit(r.weights, r.ids)))

    return changed(PLAIN, forward=forward)


def of_expert(factors: dict[int, float]) -> object:
    def edit(weights: Tensor, ids: Tensor) -> Tensor:
        for expert, factor in factors.items():
            weights = torch.where(ids == expert, factor * weights, weights)
        return weights

    return weighing(edit)


def first_slot_larger(weights: Tensor, ids: Tensor) -> Tensor:
    larger = weights.clone()
    larger[:, 0] *= 1.002
    return larger


CAUSES: dict[str, tuple[object, str]] = {
    "why    behaves as if: routing weights rounded to bfloat16": (
        weighing(lambda w, ids: w.bfloat16().float()),
        LAYER,
    ),
    "why    behaves as if: the output, or every routing weight, times 0.99": (
        weighing(lambda w, ids: 0.999 * w),
        LAYER,
    ),
    "why    behaves as if: slot 0's contribution times 1.002": (
        weighing(first_slot_larger),
        LAYER,
    ),
    "why    behaves as if: expert 1's routing weights, or its down and its bias, ": (
        of_expert({1: 0.998}),
        LAYER,
    ),
    "why    behaves as if: down bias times 0.998": (
        replace(PLAIN, add_down_bias=lambda y, b, s: y + 0.998 * b / s.tp_size),
        LAYER,
    ),
    "why    behaves as if: beta times 1.004": (
        replace(PLAIN, activate=lambda z, a: swiglu(z, replace(a, beta=1.005))),
        WIDE,
    ),
}


@pytest.mark.parametrize("words", CAUSES)
def test_what_is_the_whole_of_it_is_named(words: str, settings: Settings) -> None:
    candidate, word = CAUSES[words]
    assert words in text_of(candidate, word, settings)


def test_two_factors_are_not_one_cause(settings: Settings) -> None:
    text = text_of(of_expert({1: 0.998, 2: 1.002}), LAYER, settings)
    assert "without this gain the residual still has some" in text
    assert "why    nothing known, taken out, leaves errors of honest" in text


def test_noise_has_no_cause(settings: Settings) -> None:
    """Anything within the bound, which is almost eight standard deviations."""
    judge, case = Judge(subject_of(PLAIN), settings, "test"), parse_case(WIDE)
    data = judge.data(case)
    judged = judge.judged(case, data)
    allowed = judged.allowed["combine"]
    random = torch.rand(allowed.shape, generator=torch.Generator().manual_seed(1))
    situation = Situation(
        part=data.weights,
        config=data.config,
        hidden_states=data.hidden_states,
        routing=data.routing,
        shard=case.shard,
        arithmetic=judge.subject.arithmetic,
        truth=judged.truth,
        allowed=allowed,
    )
    _, lines = structure_lines(situation, allowed * (2 * random - 1))
    assert "times their expected size" in lines[0]
    assert lines[-1].startswith("why    nothing known")


@pytest.mark.parametrize("word", [LAYER, WIDE])
def test_a_correct_candidate_has_nothing_to_explain(
    word: str, settings: Settings
) -> None:
    assert text_of(PLAIN, word, settings) == ""
