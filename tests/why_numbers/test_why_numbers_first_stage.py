"""Without a trace, an output tells whether what is before its second GEMM is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from mxmoe.conformance.cases.case import parse_case
from mxmoe.conformance.faults.plain import PLAIN
from mxmoe.conformance.faults.plain import Plain
from mxmoe.conformance.faults.plain import changed
from mxmoe.conformance.faults.plain import subject_of
from mxmoe.conformance.faults.plain import swiglu
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.judging.numbers import judge_output
from mxmoe.conformance.judging.numbers import run_route
from mxmoe.conformance.judging.trial import repeatable_settings
from mxmoe.conformance.verdict import Failure
from mxmoe.conformance.why_numbers.stages.first_stage import first_wrong_stage
from mxmoe.reference.types import Activation

Tensor = torch.Tensor
pytestmark = pytest.mark.usefixtures("one_thread")

CASE = "e4k2h64i96/tp1r0/t17/s0"


def stage_of(candidate: object, case: str = CASE) -> list[str]:
    """What is said of the first wrong stage."""
    with repeatable_settings() as settings:
        judge, like = Judge(subject_of(candidate), settings, "test"), parse_case(case)
        run = partial(run_route, route="yours-yours")
        return first_wrong_stage(judge, like, judge.data(like).config, run)


def acting(edit: Callable[[Tensor], Tensor]) -> Plain:
    """`edit` of each expert's activations [n, i]."""
    return replace(PLAIN, activate=lambda z, a: edit(swiglu(z, a)))


def cleared(x: Tensor, lanes: slice) -> Tensor:
    x = x.clone()
    x[:, lanes] = 0
    return x


def halved(x: Tensor) -> Tensor:
    return torch.where(torch.arange(x.shape[1]) % 4 == 1, x / 2, x)


def uneven(x: Tensor) -> Tensor:
    return x * (1 + 0.3 * torch.sin(torch.arange(x.numel()).view(x.shape) ** 2.0))


def ups_of_others(z: Tensor, a: Activation) -> Tensor:
    gate, up = z[:, 0::2], z[:, 1::2].roll(2, 1)
    return swiglu(torch.stack((gate, up), dim=-1).flatten(1), a)


BEFORE: dict[str, object] = {
    "the second GEMM, lanes 32 to 63: all 0;": acting(
        lambda x: cleared(x, slice(32, 64))
    ),
    "K of the second GEMM, lanes 64 to 95 (the last 32): all 0;": acting(
        lambda x: cleared(x, slice(64, None))
    ),
    "every 4. lane, from 1: 0.5 times what they should be;": acting(halved),
    "every lane: those of lane i - 1, modulo 96;": acting(lambda x: x.roll(1, 1)),
    "every lane: those of lane i xor 8;": acting(
        lambda x: x[:, torch.arange(x.shape[1]) ^ 8]
    ),
    "lane 5: those of lane 7 in 5;": acting(
        lambda x: torch.cat((x[:, :5], x[:, 7:8], x[:, 6:]), dim=1)
    ),
    "own gate, with the up of lane i - 2, modulo 96;": replace(
        PLAIN, activate=ups_of_others
    ),
    "K of the second GEMM, every lane;": acting(uneven),
}


@pytest.mark.parametrize("words", BEFORE)
def test_wrong_activations_are_read_off(words: str) -> None:
    [line] = stage_of(BEFORE[words])
    assert words in line
    assert "; what follows is right" in line


def test_wrong_experts_are_named() -> None:
    def pack(*given: Any) -> dict[str, Tensor]:
        packed = PLAIN.pack(*given)
        packed["gate_up_bias"][3] = packed["gate_up_bias"][3].roll(2)
        return packed

    [line] = stage_of(replace(PLAIN, pack=pack))
    assert re.search(r"second GEMM, \d\d of 96 lanes of expert 3;", line)


def test_a_weight_is_not_told_from_a_factor_of_all_lanes_without_a_bias() -> None:
    half = replace(PLAIN, mix=lambda w, down: (w[..., None] * down).sum(dim=1) / 2)
    [line] = stage_of(half, "e4k2h64i96-nobias/tp1r0/t17/s0")
    assert "activation, routing weight or K" in line
    assert "every lane: 0.5 times what they should be" in line
    [line] = stage_of(half)
    assert "the combine" in line


BEHIND: dict[str, object] = {
    "result": replace(PLAIN, add_down_bias=lambda y, b, shard: uneven(y) + b),
    "bias": replace(PLAIN, add_down_bias=lambda y, b, shard: y + b.roll(3)),
    "combine": replace(
        PLAIN, mix=lambda w, down: uneven((w[..., None] * down).sum(dim=1))
    ),
}


@pytest.mark.parametrize("where", BEHIND)
def test_what_is_wrong_behind_them_is_told_from_it(where: str) -> None:
    [line] = stage_of(BEHIND[where])
    assert "rows or its bias, a slot's expert, or the combine" in line


def test_a_token_that_the_rank_does_not_serve_may_be_wrong_too() -> None:
    added = replace(PLAIN, mix=lambda w, down: (w[..., None] * down).sum(dim=1) + 1)
    [line] = stage_of(added, "e8k1h64i96/tp1r0-ep2r0/t17/s0")
    assert "no activations give this output" in line


@pytest.mark.parametrize(
    "case",
    [
        "e8k8h64i96/tp1r0/t1/s0",
        "e8k4h64i96/tp2r1/t17/s0",
        "e8k4h64i96/tp1r0-ep2r1/t9/s0",
    ],
)
def test_slots_and_ranks_of_all_kinds_can_be_read(case: str) -> None:
    [line] = stage_of(acting(lambda x: cleared(x, slice(8))), case)
    assert "lanes 0 to 7: all 0;" in line


@pytest.mark.parametrize("case", [CASE, "e8k4h96i64/tp2r0/t3/s1"])
def test_nothing_is_said_of_a_right_output(case: str) -> None:
    assert stage_of(PLAIN, case) == []


def test_nothing_is_said_of_an_output_that_is_not_finite() -> None:
    assert stage_of(acting(lambda x: x * torch.nan)) == []


def test_what_the_candidate_raises_is_no_other_failure() -> None:
    def refuse(p: object, x: Tensor, r: object, *, tactic: object = None) -> Tensor:
        raise RuntimeError("not these shapes")

    assert stage_of(changed(PLAIN, forward=refuse, trace=None)) == []


def test_a_failure_of_unknown_cause_has_the_stage_in_its_text() -> None:
    candidate = changed(acting(uneven), trace=None)
    with repeatable_settings() as settings:
        judge = Judge(subject_of(candidate), settings, "test")
        with pytest.raises(Failure) as failure:
            judge_output(judge, parse_case(CASE))
    text = failure.value.text
    assert "none of the known hypotheses" in text
    assert "first bad stage: gate_up, activation or K of the second GEMM, every" in text
    assert "not observable" not in text
