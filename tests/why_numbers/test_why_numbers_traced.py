"""What outputs are searched for is named of a traced stage, too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.case import parse_case
from mxmoe.conformance.cases.designed import make_case_data
from mxmoe.conformance.faults.plain import PLAIN
from mxmoe.conformance.faults.plain import Plain
from mxmoe.conformance.faults.plain import changed
from mxmoe.conformance.faults.plain import subject_of
from mxmoe.conformance.faults.plain import swiglu
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.judging.trace import judge_trace
from mxmoe.conformance.judging.trial import repeatable_settings
from mxmoe.conformance.verdict import Failure
from mxmoe.reference.types import SILU
from mxmoe.reference.types import Activation
from mxmoe.reference.types import Routing

Tensor = torch.Tensor
pytestmark = pytest.mark.usefixtures("one_thread")
RANK, WHOLE = "e4k2h64i128/tp2r1/t17/s0", "e4k2h96i160/tp1r0/t17/s0"


def failure_of(candidate: object, word: str) -> str:
    with repeatable_settings() as settings:
        judge = Judge(subject_of(candidate), settings, "test")
        with pytest.raises(Failure) as failure:
            judge_trace(judge, parse_case(word))
    return failure.value.text


def causes_of(candidate: object, stage: str, word: str) -> list[str]:
    text = failure_of(candidate, word)
    assert f"{stage}, token " in text
    (line,) = (x for x in text.splitlines() if x.startswith("why "))
    return line.removeprefix("why    behaves as if: ").split("; or ")


def packed(name: str, edit: Callable[[Tensor], Tensor]) -> Plain:
    def pack(*given: Any) -> dict[str, Tensor]:
        own = PLAIN.pack(*given)
        return {**own, name: edit(own[name])}

    return replace(PLAIN, pack=pack)


def of_pairs(first: int) -> Callable[[Tensor], Tensor]:
    return lambda x: x[:, torch.arange(x.shape[1]) // 2 * 2 + first]


GATES = "{} of up rows (odd ones) those of their gate row, the row before"
UPS = "{} of gate rows (even ones) those of their up row, the next row"
ROWS: dict[str, Plain] = {
    GATES.format("gate_up scales"): packed("gate_up_scales", of_pairs(0)),
    UPS.format("gate_up scales"): packed("gate_up_scales", of_pairs(1)),
    GATES.format("gate_up codes"): packed("gate_up_blocks", of_pairs(0)),
    "gate_up scales of the first of each 16 rows used for all of it": packed(
        "gate_up_scales", lambda x: x[:, torch.arange(x.shape[1]) // 16 * 16]
    ),
    "down scales of odd rows those of the row before": packed(
        "down_scales", of_pairs(0)
    ),
}


@pytest.mark.parametrize("words", ROWS)
@pytest.mark.parametrize("traced", [True, False])
def test_what_rows_take_from_the_row_beside_them_is_named(
    why: Callable[[Case, Tensor], str], words: str, traced: bool
) -> None:
    candidate = ROWS[words]
    if traced:
        stage = words.split()[0]
        assert words in causes_of(candidate, stage, RANK)
        return
    case = parse_case(RANK)
    data = make_case_data(case)
    subject = subject_of(candidate)
    prepared = subject.prepare(data.weights, data.config, case.shard)
    out = subject.forward(prepared, data.hidden_states, data.routing)
    assert why(case, out) == f"why    behaves as if: {words}"


def before(edit: Callable[[Tensor], Tensor]) -> Plain:
    """`edit` of gate and up with their bias, which the trace does not show."""

    def activate(z: Tensor, a: Activation) -> Tensor:
        return swiglu(edit(z), a)

    return replace(PLAIN, activate=activate, between=torch.float32)


def stored(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    return lambda x: x.to(dtype).to(x.dtype)


def ups(edit: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda z: torch.stack((z[..., 0::2], edit(z[..., 1::2])), -1).flatten(-2)


def with_sigmoid(z: Tensor, a: Activation) -> Tensor:
    gate, up = z[..., 0::2].clamp(max=a.limit), z[..., 1::2].clamp(-a.limit, a.limit)
    sigmoid = stored(torch.float8_e4m3fn)(torch.sigmoid(a.alpha * gate))
    return gate * sigmoid * (up + a.beta)


ACTIVATIONS: dict[str, Plain] = {
    "gate_up rounded to bfloat16 with its bias": before(stored(torch.bfloat16)),
    "gate_up rounded to float8 (E4M3) with its bias": before(
        stored(torch.float8_e4m3fn)
    ),
    "up half rounded to bfloat16 with its bias": before(ups(stored(torch.bfloat16))),
    "sigmoid of the gate rounded to float8 (E4M3)": replace(
        PLAIN, activate=with_sigmoid
    ),
    "intermediate rounded to float8 (E4M3)": replace(
        PLAIN, between=torch.float8_e4m3fn
    ),
    "plain silu(gate) * up": replace(PLAIN, activate=lambda z, a: swiglu(z, SILU)),
    "alpha of the activation is 1.2, not 1.702": replace(
        PLAIN, activate=lambda z, a: swiglu(z, replace(a, alpha=1.2))
    ),
    "limit of the activation is 5, not 7": replace(
        PLAIN, activate=lambda z, a: swiglu(z, replace(a, limit=5.0))
    ),
}


@pytest.mark.parametrize("words", ACTIVATIONS)
def test_the_cause_of_a_wrong_activation_is_named(words: str) -> None:
    assert words in causes_of(ACTIVATIONS[words], "activation", RANK)


def test_few_lanes_tell_what_was_rounded_before_the_activation() -> None:
    words = "gate_up rounded to bfloat16 with its bias"
    word = "e1k1h32i32/tp1r0/t1/s0"
    assert words in causes_of(ACTIVATIONS[words], "activation", word)


def test_no_cause_is_named_of_an_activation_that_is_noise() -> None:
    random = torch.Generator().manual_seed(0)

    def noisy(z: Tensor, a: Activation) -> Tensor:
        own = swiglu(z, a)
        return own + 0.1 * own.std() * torch.randn(own.shape, generator=random)

    assert "why " not in failure_of(replace(PLAIN, activate=noisy), RANK)


def behind(x: Tensor, over: int) -> Tensor:
    return torch.cat((x[1:, :over], torch.zeros_like(x[:1, :over])))


def reading_on(hidden: int) -> Plain:
    def product(x: Tensor, w: Tensor) -> Tensor:
        over = -x.shape[1] % 64 if x.shape[1] == hidden else 0
        return x @ w.T + behind(x, over) @ behind(w, over).T

    return replace(PLAIN, product=product)


def of_token_before() -> object:
    """GEMM1 of each slot takes the hidden states of the token before, modulo all."""

    def trace(p: Any, x: Tensor, r: Routing) -> dict[str, Tensor]:
        return PLAIN.trace(p, x.roll(1, 0), r)

    return changed(PLAIN, trace=trace)


PLACES: dict[str, tuple[str, object, str]] = {
    "GEMM1 reads 32 columns behind K, up to a multiple of 64 or 128: those of the next "
    "row of its expert and of the next weight row": ("gate_up", reading_on(96), WHOLE),
    "GEMM2 reads 32 columns behind K, up to a multiple of 64: those of the next row of "
    "its expert and of the next weight row": ("down", reading_on(160), WHOLE),
    "gate_up_bias: experts shifted by one": (
        "gate_up",
        packed("gate_up_bias", lambda x: x.roll(1, 0)),
        WHOLE,
    ),
    "scales of gate_up read as if rows had 5 K blocks, not 3, as those of down": (
        "gate_up",
        packed(
            "gate_up_scales",
            lambda x: x.flatten()[
                (
                    torch.arange(4)[:, None, None] * 960
                    + torch.arange(320)[:, None] * 5
                    + torch.arange(3)
                )
                % x.numel()
            ],
        ),
        WHOLE,
    ),
    "GEMM1 takes the hidden states of slot n - 2, modulo their number, not its own "
    "(n = token * top_k + slot)": ("gate_up", of_token_before(), WHOLE),
}


@pytest.mark.parametrize("words", PLACES)
def test_what_a_traced_gemm_took_from_elsewhere_is_named(words: str) -> None:
    stage, candidate, word = PLACES[words]
    assert words in causes_of(candidate, stage, word)
