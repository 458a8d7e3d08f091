"""A traced stage that is wrong is told what was made of the stage before it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from mxmoe.conformance.cases.case import parse_case
from mxmoe.conformance.faults.plain import PLAIN
from mxmoe.conformance.faults.plain import subject_of
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.judging.trace import judge_trace
from mxmoe.conformance.judging.trial import repeatable_settings
from mxmoe.conformance.verdict import Failure

Tensor = torch.Tensor
pytestmark = pytest.mark.usefixtures("one_thread")


def failure_of(candidate: object) -> str:
    with repeatable_settings() as settings:
        judge = Judge(subject_of(candidate), settings, "test")
        with pytest.raises(Failure) as failure:
            judge_trace(judge, parse_case("e4k2h64i128/tp2r1/t17/s0"))
    return failure.value.text


def holding(name: str, *at: Any) -> object:
    """0 in some of what `prepare` has packed."""

    def pack(*given: Any) -> dict[str, Tensor]:
        packed = PLAIN.pack(*given)
        packed[name][at] = 0
        return packed

    return replace(PLAIN, pack=pack)


def stored(x: Tensor) -> Tensor:
    return x.bfloat16().to(x.dtype)


EVERY = slice(None)
CANDIDATES: dict[str, tuple[str, object]] = {
    "K block 1, the last, of gate_up dropped": (
        "gate_up",
        holding("gate_up_blocks", EVERY, EVERY, 1),
    ),
    "K block 0 of down dropped, in expert 2 only": (
        "down",
        holding("down_blocks", 2, EVERY, 0),
    ),
    "gate_up rounded to bfloat16 with its bias": (
        "gate_up",
        replace(PLAIN, add_gate_up_bias=lambda z, b: stored(z + b)),
    ),
    "result of GEMM1 rounded to bfloat16": (
        "gate_up",
        replace(PLAIN, add_gate_up_bias=lambda z, b: stored(z) + b),
    ),
    "gate_up bias ignored": (
        "gate_up",
        replace(PLAIN, add_gate_up_bias=lambda z, b: z),
    ),
    "down bias added twice": (
        "down",
        replace(PLAIN, add_down_bias=lambda y, b, shard: y + b),
    ),
    "routing weights applied twice": (
        "combine",
        replace(PLAIN, mix=lambda w, down: (w[..., None] ** 2 * down).sum(dim=1)),
    ),
}


@pytest.mark.parametrize("words", CANDIDATES)
def test_the_cause_is_named_at_the_stage_where_it_happens(words: str) -> None:
    stage, candidate = CANDIDATES[words]
    text = failure_of(candidate)
    assert f"{stage}, token " in text
    (line,) = (x for x in text.splitlines() if x.startswith("why "))
    assert words in line.removeprefix("why    behaves as if: ").split("; or ")


def test_nothing_is_named_for_a_stage_of_noise() -> None:
    random = torch.Generator().manual_seed(0)
    noisy = replace(
        PLAIN,
        product=lambda x, w: x @ w.T + torch.randn(len(x), len(w), generator=random),
    )
    assert "why " not in failure_of(noisy)
