"""Roundings that a class does not have are named by where and how often they happen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from mxmoe.conformance.cases.case import parse_case
from mxmoe.conformance.faults.plain import PLAIN
from mxmoe.conformance.faults.plain import changed
from mxmoe.conformance.faults.plain import subject_of
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.judging.numbers import judge_output
from mxmoe.conformance.judging.trial import repeatable_settings
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
    "sums of both GEMMs kept in bfloat16, rounded after each 32 of K": replace(
        PLAIN, product=kept_in_bfloat16
    ),
}


# Twelve seconds each.
_BY_NIGHT = (
    "gate_up rounded to bfloat16, and again with its bias",
    "results of both GEMMs rounded to bfloat16",
)


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(words, marks=pytest.mark.nightly if words in _BY_NIGHT else ())
        for words in CANDIDATES
    ],
)
def test_one_rounding_of_a_result_is_told_from_sums_that_are_kept_so(
    words: str,
) -> None:
    assert why(CANDIDATES[words], CASE) == words


def of_one_gemm(
    one: Callable[[Tensor, Tensor], Tensor], which: int
) -> Callable[[Tensor, Tensor], Tensor]:
    """`one` in GEMM1 or GEMM2 of each expert, the other exact; both where it is 0."""
    calls: list[None] = []

    def multiplied(x: Tensor, w: Tensor) -> Tensor:
        calls.append(None)
        right = which and len(calls) % 2 != which % 2
        return x @ w.T if right else one(x, w)

    return multiplied


def split(count: int) -> Callable[[Tensor, Tensor], Tensor]:
    """K in equal runs of blocks, each sum stored in bfloat16."""

    def multiplied(x: Tensor, w: Tensor) -> Tensor:
        size = -(-x.shape[1] // 32 // count) * 32
        parts = zip(x.split(size, 1), w.split(size, 1), strict=True)
        return torch.stack([stored(a @ b.T) for a, b in parts]).sum(dim=0)

    return multiplied


BEHIND = "splits whose sums are rounded to bfloat16 before they are added"
SPLITS: dict[str, tuple[int, int, str]] = {
    f"K of GEMM1 in 2 {BEHIND}": (2, 1, "e2k1h512i32/tp1r0/t129/s1"),
    f"K of GEMM1 in 8 {BEHIND}": (8, 1, "e2k1h512i32/tp1r0/t129/s1"),
    f"K of GEMM2 in 3 {BEHIND}": (3, 2, "e2k1h64i256/tp1r0/t129/s3"),
    f"K of both GEMMs in 4 {BEHIND}": (4, 0, "e4k2h256i256/tp1r0/t65/s3"),
    "sums of GEMM1 rounded to bfloat16 after each K block, then added": (
        4,
        1,
        "e1k1h96i32/tp1r0/t257/s1",
    ),
}


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(words, marks=pytest.mark.nightly if "both" in words else ())
        for words in SPLITS
    ],
)
def test_splits_of_k_that_are_rounded_before_they_are_added_are_named(
    words: str,
) -> None:
    count, which, word = SPLITS[words]
    multiplied = of_one_gemm(split(count), which)
    assert why(replace(PLAIN, product=multiplied), word) == words


def kept_after_16(x: Tensor, w: Tensor) -> Tensor:
    total = torch.zeros(len(x), len(w))
    for a, b in zip(x.split(16, 1), w.split(16, 1), strict=True):
        total = stored(total + a @ b.T)
    return total


@pytest.mark.parametrize(
    "which", [1, *(pytest.param(n, marks=pytest.mark.nightly) for n in (2, 0))]
)
def test_sums_of_unknown_order_are_told_by_gemm(which: int) -> None:
    """Clamps hide a part of the errors of GEMM1: it looked like both before."""
    candidate = changed(
        replace(PLAIN, product=of_one_gemm(kept_after_16, which)), trace=None
    )
    line = why(candidate, "e4k2h128i64/tp1r0/t65/s1/saturated")
    gemm = ("both GEMMs", "GEMM1", "GEMM2")[which]
    assert line == f"sums of {gemm} kept in bfloat16: errors have that size"


def giving(finish: Callable[[Tensor], Tensor]) -> object:
    """`finish` makes the output of sums in float32."""

    def forward(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
        return finish(PLAIN.forward(p, x.float(), r))

    return changed(PLAIN, forward=forward, trace=None)


@pytest.mark.parametrize(
    "hot", ["zero_scale", pytest.param("saturated", marks=pytest.mark.nightly)]
)
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
