"""Roundings that a class does not have are named by where and how often they happen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from mxmoe.conformance.case import parse_case
from mxmoe.conformance.faults.plain import PLAIN
from mxmoe.conformance.faults.plain import changed
from mxmoe.conformance.faults.plain import subject_of
from mxmoe.conformance.judge import Judge
from mxmoe.conformance.judge_numbers import judge_output
from mxmoe.conformance.trial import repeatable_settings
from mxmoe.conformance.verdict import Failure
from mxmoe.reference.types import Routing

Tensor = torch.Tensor
pytestmark = pytest.mark.usefixtures("one_thread")

# Few lanes, so that a rounding of each leaves the bound somewhere.
CASE = "e2k1h224i32/tp1r0/t33/s3"


def why(candidate: object, word: str) -> str:
    with repeatable_settings() as settings:
        judge = Judge(subject_of(candidate), settings, "test")
        with pytest.raises(Failure) as failure:
            judge_output(judge, parse_case(word))
    (line,) = (x for x in failure.value.text.splitlines() if x.startswith("why  "))
    return line.removeprefix("why    behaves as if: ")


def stored(x: Tensor) -> Tensor:
    return x.bfloat16().to(x.dtype)


def of_both_gemms(x: Tensor, w: Tensor) -> Tensor:
    return stored(x @ w.T)


def kept_in_bfloat16(x: Tensor, w: Tensor) -> Tensor:
    total = torch.zeros(len(x), len(w))
    for a, b in zip(x.split(32, 1), w.split(32, 1), strict=True):
        total = stored(total + a @ b.T)
    return total


def before_the_bias(z: Tensor, bias: Tensor) -> Tensor:
    return stored(z) + bias


def before_and_behind_the_bias(z: Tensor, bias: Tensor) -> Tensor:
    return stored(stored(z) + bias)


CANDIDATES: dict[str, object] = {
    "result of GEMM1 rounded to bfloat16": replace(
        PLAIN, add_gate_up_bias=before_the_bias
    ),
    "gate_up rounded to bfloat16, and again with its bias": replace(
        PLAIN, add_gate_up_bias=before_and_behind_the_bias
    ),
    "results of both GEMMs rounded to bfloat16": replace(PLAIN, product=of_both_gemms),
    "sums of both GEMMs kept in bfloat16: errors have that size": replace(
        PLAIN, product=kept_in_bfloat16
    ),
}


@pytest.mark.parametrize("words", CANDIDATES)
def test_one_rounding_of_a_result_is_told_from_sums_that_are_kept_so(
    words: str,
) -> None:
    assert why(CANDIDATES[words], CASE) == words


def giving(finish: Callable[[Tensor], Tensor]) -> object:
    """`finish` makes the output of sums in float32."""

    def forward(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
        return finish(PLAIN.forward(p, x.float(), r))

    return changed(PLAIN, forward=forward, trace=None)


@pytest.mark.parametrize("hot", ["saturated", "zero_scale"])
def test_an_output_that_went_through_float16_is_named(hot: str) -> None:
    """And not a rounding of slots: one slot of weight 1 is rounded anyway."""
    twice = giving(lambda out: out.half().bfloat16())
    line = why(twice, f"e2k1h384i32/tp1r0/t129/s1/{hot}")
    assert line == "output rounded to float16, then to bfloat16"


def test_an_error_beyond_that_of_float16_is_not_called_it() -> None:
    def further(out: Tensor) -> Tensor:
        unit = 2.0 ** (out.abs().log2().floor() - 7)
        return (out + 0.2 * unit).bfloat16()

    line = why(giving(further), "e2k1h384i32/tp1r0/t129/s1/saturated")
    assert "float16, then" not in line
