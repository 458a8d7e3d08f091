"""Factors of both GEMMs, and a sigmoid, in fewer bits than class fp32 has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from mxmoe.conformance.bounds.propagated import judge_rank
from mxmoe.conformance.cases.case import parse_case
from mxmoe.conformance.cases.designed import make_case_data
from mxmoe.conformance.faults.plain import FLOAT32
from mxmoe.conformance.faults.plain import subject_of
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.judging.numbers import judge_output
from mxmoe.conformance.judging.trial import repeatable_settings
from mxmoe.conformance.verdict import Failure
from mxmoe.conformance.why_numbers.causes import causes
from mxmoe.conformance.why_numbers.layer_steps import situation_of
from mxmoe.reference.types import ARITHMETIC
from mxmoe.reference.types import Activation

Tensor = torch.Tensor
pytestmark = pytest.mark.usefixtures("one_thread")
CASE = "e2k1h64i32/tp1r0/t5/s3"


def why(candidate: object) -> str:
    with repeatable_settings() as settings:
        judge = Judge(subject_of(candidate), settings, "test")
        with pytest.raises(Failure) as failure:
            judge_output(judge, parse_case(CASE))
    [line] = (x for x in failure.value.text.splitlines() if x.startswith("why  "))
    return line.removeprefix("why    behaves as if: ")


def nearest_tf32(x: Tensor) -> Tensor:
    return ((x.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


FACTORS: dict[str, Callable[[Tensor], Tensor]] = {
    "factors of both GEMMs rounded to TF32": nearest_tf32,
    "factors of both GEMMs rounded to bfloat16": lambda x: x.bfloat16().float(),
    "factors of both GEMMs rounded to float16": lambda x: x.half().float(),
}


@pytest.mark.parametrize("words", FACTORS)
def test_factors_of_fewer_bits_are_named(words: str) -> None:
    """Of few lanes: of many, some fall on the other side of a tie."""
    store = FACTORS[words]

    def product(x: Tensor, w: Tensor) -> Tensor:
        return store(x) @ store(w).T

    case, few = parse_case(CASE), ARITHMETIC["fp32"]
    data = make_case_data(case, hidden_dtype=few.output)
    subject = subject_of(replace(FLOAT32, product=product))
    prepared = subject.prepare(data.weights, data.config, case.shard)
    out = subject.forward(prepared, data.hidden_states, data.routing)
    judged = judge_rank(
        data.weights,
        data.config,
        data.hidden_states,
        data.routing,
        shard=case.shard,
        arithmetic=few,
    )
    assert words in map(str, causes(situation_of(case, data), judged, out, few))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_sigmoid_of_fewer_bits_is_named(dtype: torch.dtype) -> None:
    def activate(z: Tensor, a: Activation) -> Tensor:
        gate, up = z[..., 0::2].clamp(max=a.limit), z[..., 1::2]
        sigmoid = torch.sigmoid(a.alpha * gate).to(dtype).float()
        return gate * sigmoid * (up.clamp(-a.limit, a.limit) + a.beta)

    words = f"sigmoid rounded to {str(dtype).removeprefix('torch.')}"
    assert why(replace(FLOAT32, activate=activate)) == words
