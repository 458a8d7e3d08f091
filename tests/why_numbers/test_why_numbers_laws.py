"""A broken law says which output is wrong and why, or what the two depend on."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from mxmoe.conformance.cases.case import parse_case
from mxmoe.conformance.faults.laws import BROKEN
from mxmoe.conformance.faults.laws import ranks_without_the_clamp
from mxmoe.conformance.faults.laws import weights_by_exp_in_float32_without_a_maximum
from mxmoe.conformance.faults.plain import PLAIN
from mxmoe.conformance.faults.plain import Tensor
from mxmoe.conformance.faults.plain import changed
from mxmoe.conformance.faults.plain import claiming
from mxmoe.conformance.faults.plain import dequantize
from mxmoe.conformance.faults.plain import product
from mxmoe.conformance.faults.plain import subject_of
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.judging.laws import judge_law
from mxmoe.conformance.judging.laws import judge_ranks_add_up
from mxmoe.conformance.judging.routing_laws import judge_routing_law
from mxmoe.conformance.judging.trial import repeatable_settings
from mxmoe.conformance.laws.layer import LAWS
from mxmoe.conformance.laws.routing import ROUTING_LAWS
from mxmoe.conformance.settings import Settings
from mxmoe.conformance.verdict import Failure
from mxmoe.reference.types import Routing

pytestmark = pytest.mark.usefixtures("one_thread")

EXACT = claiming(PLAIN, deterministic=True, batch_invariant=True)
HIDDEN = 64
WORD = f"e4k2h{HIDDEN}i96/tp1r0/t17/s0"


@pytest.fixture(scope="module")
def settings() -> Iterator[Settings]:
    with repeatable_settings(layers=(0,)) as found:
        yield found


def failure(judge: Judge, check: Callable[[], None]) -> str:
    try:
        check()
    except Failure as found:
        return found.text
    return ""


def text_of(law: str, candidate: object, settings: Settings, word: str = WORD) -> str:
    judge = Judge(subject_of(candidate), settings, "test")
    return failure(judge, lambda: judge_law(judge, parse_case(word), LAWS[law]))


def calling(forward: Callable[[Any, Tensor, Routing], Tensor]) -> object:
    def with_tactic(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
        return forward(p, x, r)

    return changed(EXACT, forward=with_tactic)


def decoding(scale: Callable[[Tensor], Tensor]) -> object:
    """With `scale` of the scales as numbers."""

    def decode(blocks: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
        ones = dequantize(blocks, torch.full_like(scales, 127), torch.float64)
        values = dequantize(torch.full_like(blocks, 0x22), scales, torch.float64)
        return (ones * scale(values)).to(dtype)

    return replace(EXACT, decode=decode)


def second_gemm(x: Tensor, w: Tensor) -> Tensor:
    out = product(x, w)
    return out.half().float() if len(w) == HIDDEN else out


def small_taken_as_0(p: Any, x: Tensor, r: Routing) -> Tensor:
    return EXACT.forward(p, torch.where(x.abs() < 2**-9, 0, x), r)


def grid_of_the_largest(p: Any, x: Tensor, r: Routing) -> Tensor:
    """Hidden states on a grid that the largest of all tokens sets."""
    step = x.abs().max().float() * 2**-12
    return EXACT.forward(p, ((x.float() / step).round() * step).bfloat16(), r)


def last_bit_of(rows: Callable[[int], Tensor]) -> object:
    """One unit in the last place more in rows(t)."""

    def forward(p: Any, x: Tensor, r: Routing) -> Tensor:
        out = EXACT.forward(p, x, r)
        bits = out.view(torch.int16)
        bits[rows(len(x))] += 1
        return bits.view(torch.bfloat16)

    return calling(forward)


def many(count: int) -> Tensor:
    return torch.full((count,), count >= 9)


def last_of_odd(count: int) -> Tensor:
    return (torch.arange(count) == count - 1) & (count % 2 == 1) & (count > 1)


SCALES, HALF = "scales_far", "rounded to float16"
CAUSES: dict[str, tuple[str, object]] = {
    f"why    behaves as if: down scales {HALF};": (
        SCALES,
        decoding(Tensor.half),
    ),
    "why    behaves as if: gate_up scales of at most 2^3;": (
        SCALES,
        decoding(lambda s: s.clamp(max=8)),
    ),
    "why    behaves as if: down scales of at least 2^-27;": (
        SCALES,
        decoding(lambda s: s.clamp(min=2.0**-27)),
    ),
    "why    behaves as if: down scales below 2^-20 taken as 0;": (
        SCALES,
        decoding(lambda s: torch.where(s < 2.0**-20, 0, s)),
    ),
    f"why    behaves as if: down bias {HALF};": (
        SCALES,
        replace(EXACT, add_down_bias=lambda y, b, s: y + b.half().float() / s.tp_size),
    ),
    f"why    behaves as if: result of GEMM2 {HALF} (": (
        SCALES,
        replace(EXACT, product=second_gemm),
    ),
    f"why    behaves as if: output {HALF} (": (SCALES, BROKEN[SCALES]()),
    f"why    behaves as if: hidden states {HALF}, in the second call": (
        SCALES,
        calling(lambda p, x, r: EXACT.forward(p, x.half().bfloat16(), r)),
    ),
    "why    behaves as if: hidden states below 2^-9 taken as 0, in the second call": (
        "input_halves",
        calling(small_taken_as_0),
    ),
    "why    behaves as if: routing weights above 2^0 rounded to bfloat16, in the sec": (
        "weights_scale",
        BROKEN["weights_scale"](),
    ),
    "follows the hidden states of token 10 (the one before)\n": (
        "neighbours",
        BROKEN["neighbours"](),
    ),
    "token 2, token 3 and every other one\n": (
        "neighbours",
        calling(grid_of_the_largest),
    ),
    "why    the output follows down_bias of expert 2, which no token visits\n": (
        "unvisited_expert",
        BROKEN["unvisited_expert"](),
    ),
    "the same token alone: every row of batches from 9 tokens on": (
        "token_alone",
        last_bit_of(many),
    ),
    "the same token alone: the last row of batches of an odd number of tokens": (
        "tokens_permute",
        last_bit_of(last_of_odd),
    ),
    "why    behaves as if: slot 0's contribution times 1.5 (": (
        "slots_permute",
        BROKEN["slots_permute"](),
    ),
    "why    behaves as if: expert 0's contribution times 1.5 (": (
        "experts_permute",
        BROKEN["experts_permute"](),
    ),
    "why    behaves as if: first 1 lanes of K missing in both GEMMs (": (
        "inputs_permute",
        BROKEN["inputs_permute"](),
    ),
    "slots without an expert (-1) visit this rank's first expert (the second": (
        "empty_slot",
        BROKEN["empty_slot"](),
    ),
    "the first one says, 0.00391 less in every element\n": (
        "down_doubles",
        BROKEN["down_doubles"](),
    ),
}


@pytest.mark.parametrize("words", CAUSES)
def test_what_breaks_a_law_is_named(words: str, settings: Settings) -> None:
    law, candidate = CAUSES[words]
    assert words in text_of(law, candidate, settings)


def test_the_exponent_is_named_from_which_on_a_law_is_broken(
    settings: Settings,
) -> None:
    text = text_of(SCALES, decoding(Tensor.half), settings)
    assert "from W2's scale bytes 15 lower (the smallest is 2^-25)" in text


def hashed(p: Any, x: Tensor, r: Routing) -> Tensor:
    """Last bits that look random and follow from all that is given."""
    out = EXACT.forward(p, x, r)
    given = (x, r.weights, p["down_scales"], p["gate_up_scales"], p["down_blocks"])
    seed = hash(tuple(float(t.double().sum()) for t in given))
    random = torch.Generator().manual_seed(seed % 2**31)
    noise = torch.rand(out.shape, generator=random) < 0.5
    return (out.view(torch.int16) ^ noise.short()).view(torch.bfloat16)


@pytest.mark.parametrize("law", ["weights_scale", "down_negates", SCALES])
def test_noise_has_no_cause(law: str, settings: Settings) -> None:
    text = text_of(law, calling(hashed), settings)
    assert "broken law" in text
    assert "behaves as if" not in text
    assert "the second output is what the first one says" not in text


def test_a_law_of_a_candidate_that_changes_its_mind_has_no_cause(
    settings: Settings,
) -> None:
    def forward(p: Any, x: Tensor, r: Routing) -> Tensor:
        out = EXACT.forward(p, x, r)
        noise = (torch.rand(out.shape) < 0.5).short()
        return (out.view(torch.int16) ^ noise).view(torch.bfloat16)

    text = text_of("down_negates", calling(forward), settings)
    assert "why    the same call gives other bits again" in text
    assert "behaves as if" not in text


@pytest.mark.parametrize("law", BROKEN)
@pytest.mark.parametrize(
    "word",
    [
        "e1k1h32i32/tp1r0/t2/s1",
        pytest.param(
            "e4k2h64i96-silu-nobias/tp1r0/t5/s1/no_expert", marks=pytest.mark.nightly
        ),
        pytest.param("e4k2h64i64/tp2r1-ep2r1/t9/s2/strided", marks=pytest.mark.nightly),
        "e2k2h64i32/tp2r1/t5/s1",
    ],
)
def test_explanations_of_laws_never_raise(
    law: str, word: str, settings: Settings
) -> None:
    if law in LAWS:
        text_of(law, BROKEN[law](), settings, word)


def test_ranks_that_are_wrong_have_a_cause(settings: Settings) -> None:
    judge = Judge(subject_of(ranks_without_the_clamp.plant()), settings, "test")
    case = parse_case("e4k2h64i96/tp2r0/t5/s0")
    text = failure(judge, lambda: judge_ranks_add_up(judge, case))
    assert "out of their own bound: 2 of 2 ranks" in text
    assert "why    behaves as if: no clamp (every rank)" in text


def test_a_routing_law_names_what_is_true_of_both_routings(
    settings: Settings,
) -> None:
    fault = weights_by_exp_in_float32_without_a_maximum.plant()
    judge = Judge(subject_of(fault), settings, "test")
    law = ROUTING_LAWS["logits_shift"]
    text = failure(
        judge, lambda: judge_routing_law(judge, law, experts=32, top_k=4, seed=0)
    )
    assert "equal weights in the rows whose largest logit is above" in text
    assert "sigmoid" not in text
    assert "wrong by itself: the second routing" in text
