"""Faults that a stranger may plant behind `forward` are named, with their place.

Each case is a candidate with one line that is wrong; the words are what an engineer
needs to hear. The failing output is one call's, as a check hands it over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from mxmoe.conformance.bounds.propagated import judge_rank
from mxmoe.conformance.cases.case import parse_case
from mxmoe.conformance.cases.designed import make_case_data
from mxmoe.conformance.faults.plain import PLAIN
from mxmoe.conformance.faults.plain import Plain
from mxmoe.conformance.faults.plain import changed
from mxmoe.conformance.faults.plain import product
from mxmoe.conformance.faults.plain import subject_of
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.judging.numbers import judge_output
from mxmoe.conformance.judging.trial import repeatable_settings
from mxmoe.conformance.verdict import Failure
from mxmoe.conformance.why_numbers.causes import causes
from mxmoe.conformance.why_numbers.expert_content import RIGHT
from mxmoe.conformance.why_numbers.expert_content import Experts
from mxmoe.conformance.why_numbers.layer_steps import situation_of
from mxmoe.conformance.why_numbers.nonfinite import explain_nonfinite
from mxmoe.conformance.why_numbers.nonfinite import first_nonfinite
from mxmoe.reference.types import ARITHMETIC
from mxmoe.reference.types import Activation
from mxmoe.reference.types import Routing

Tensor = torch.Tensor
CASE = parse_case("e8k2h96i128/tp1r0/t37/s0")
DATA = make_case_data(CASE)
CLASS = ARITHMETIC["w4a16_fp32acc"]
SITUATION = situation_of(CASE, DATA)


@cache
def judged() -> Any:
    return judge_rank(
        DATA.weights,
        DATA.config,
        DATA.hidden_states,
        DATA.routing,
        shard=CASE.shard,
        arithmetic=CLASS,
    )


def output_of(candidate: object) -> Tensor:
    subject = subject_of(candidate)
    prepared = subject.prepare(DATA.weights, DATA.config, CASE.shard)
    return subject.forward(prepared, DATA.hidden_states, DATA.routing)


def names(out: Tensor, **options: Any) -> list[str]:
    return list(map(str, causes(SITUATION, judged(), out, CLASS, **options)))


def holding(edit: Callable[[dict[str, Tensor]], object]) -> Plain:
    """`edit` changes what `prepare` has packed, in place."""

    def pack(*given: Any) -> dict[str, Tensor]:
        packed = PLAIN.pack(*given)
        edit(packed)
        return packed

    return replace(PLAIN, pack=pack)


def decoding(values: dict[float, float]) -> Plain:
    def decode(blocks: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
        ones = PLAIN.decode(blocks, torch.full_like(scales, 127), dtype)
        wrong = ones.clone()
        for right, other in values.items():
            wrong[ones == right] = other
        scale = PLAIN.decode(torch.full_like(blocks, 0x22), scales, dtype)
        return wrong * scale

    return replace(PLAIN, decode=decode)


def weighing(edit: Callable[[Tensor], Tensor]) -> object:
    def forward(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
        return PLAIN.forward(p, x, Routing(r.ids, edit(r.weights)))

    return changed(PLAIN, forward=forward, trace=None)


def acting(activate: Callable[[Tensor, Tensor, Activation], Tensor]) -> Plain:
    return replace(PLAIN, activate=lambda z, a: activate(z[..., 0::2], z[..., 1::2], a))


def product_clamped(gate: Tensor, up: Tensor, a: Activation) -> Tensor:
    result = gate * torch.sigmoid(a.alpha * gate) * (up + a.beta)
    return result.clamp(-a.limit, a.limit)


def up_clamped_behind(gate: Tensor, up: Tensor, a: Activation) -> Tensor:
    gate = gate.clamp(max=a.limit)
    up = (up + a.beta).clamp(-a.limit, a.limit)
    return gate * torch.sigmoid(a.alpha * gate) * up


def up_limit_of_6(gate: Tensor, up: Tensor, a: Activation) -> Tensor:
    gate = gate.clamp(max=a.limit)
    return gate * torch.sigmoid(a.alpha * gate) * (up.clamp(-6, 6) + a.beta)


def swapped(packed: dict[str, Tensor]) -> None:
    for name in ("gate_up_blocks", "gate_up_scales"):
        packed[name][[0, 1]] = packed[name][[1, 0]]


def of_the_first(packed: dict[str, Tensor]) -> None:
    packed["down_scales"][7] = packed["down_scales"][0]


def one_high(packed: dict[str, Tensor]) -> None:
    packed["gate_up_scales"][2] += 1


def first_scale(packed: dict[str, Tensor]) -> None:
    packed["gate_up_scales"][:] = packed["gate_up_scales"][..., :1]


def nothing_in_block_2(packed: dict[str, Tensor]) -> None:
    packed["down_blocks"][5, :, 2] = 0


def in_bfloat16(x: Tensor, w: Tensor) -> Tensor:
    total = torch.zeros(len(x), len(w))
    for a, b in zip(x.split(32, 1), w.split(32, 1), strict=True):
        total = (total + product(a, b)).bfloat16().float()
    return total


def cut(x: Tensor) -> Tensor:
    bits = x.float().contiguous().view(torch.int32) & ~0xFFFF
    return bits.view(torch.float32).bfloat16()


def rows_of_others(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
    shifted = x.clone()
    shifted[32:] = x[:5]
    return PLAIN.forward(p, shifted, r)


def bias_of_first_slot(weights: Tensor, down: Tensor) -> Tensor:
    bias = DATA.weights.down_bias
    assert bias is not None
    of_slots = bias[DATA.routing.ids.long()].float()
    return (weights[..., None] * (down - of_slots)).sum(dim=1) + of_slots[:, 0]


CANDIDATES: dict[str, object] = {
    "product clamped on both sides, and not its factors": acting(product_clamped),
    "up half clamped behind the + beta": acting(up_clamped_behind),
    "limit of the up half is 6, not 7": acting(up_limit_of_6),
    "E2M1 codes of gate_up and down decoded wrongly: 6 as 8": decoding(
        {6.0: 8.0, -6.0: -8.0}
    ),
    "E2M1 codes of gate_up and down decoded wrongly: -0.5 as 0.5": decoding(
        {-0.5: 0.5}
    ),
    "gate_up weights, not the bias, of experts 0 and 1 swapped": holding(swapped),
    "expert 7 has the down scales of expert 0": holding(of_the_first),
    "gate_up scales twice as large, in expert 2 only": holding(one_high),
    "the first scale of each row of gate_up used for all": holding(first_scale),
    "K block 2 of down dropped, in expert 5 only": holding(nothing_in_block_2),
    "sums of both GEMMs kept in bfloat16": replace(PLAIN, product=in_bfloat16),
    "routing weights applied twice": weighing(torch.square),
    "softmax of the routing weights": weighing(lambda w: w.softmax(dim=1)),
    "routing weights to the power of 0.6 and normalised": weighing(
        lambda w: w**0.6 / (w**0.6).sum(dim=1, keepdim=True)
    ),
    "down bias added once for each token": replace(PLAIN, mix=bias_of_first_slot),
    "tokens 32..36 hold the hidden states of token n - 32": changed(
        PLAIN, forward=rows_of_others, trace=None
    ),
}


# One of each search; the others are of the same ones.
_DAILY = (
    "clamped behind",
    "6 as 8",
    "experts 0 and 1",
    "expert 2 only",
    "applied twice",
)


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(
            words,
            marks=() if any(part in words for part in _DAILY) else pytest.mark.nightly,
        )
        for words in CANDIDATES
    ],
)
def test_the_cause_is_named_first(words: str) -> None:
    first, *_ = names(output_of(CANDIDATES[words]))
    assert words in first


def test_an_output_that_is_cut_is_not_called_a_factor() -> None:
    prepared = subject_of(PLAIN).prepare(DATA.weights, DATA.config, CASE.shard)
    wide = PLAIN.forward(prepared, DATA.hidden_states.float(), DATA.routing)
    assert names(cut(wide)) == ["output cut, not rounded to bfloat16"]


def test_nothing_is_named_for_a_right_output() -> None:
    assert names(output_of(PLAIN)) == []


@pytest.mark.nightly
@pytest.mark.parametrize("size", [2.0**-6, 1.0])
def test_nothing_is_named_for_noise_of_any_size(size: float) -> None:
    random = torch.Generator().manual_seed(1)
    noise = size * torch.randn(DATA.hidden_states.shape, generator=random)
    assert not [n for n in names(output_of(PLAIN) + noise) if "that size" not in n]


def test_the_former_call_is_told_from_a_factor() -> None:
    right = output_of(PLAIN)
    former = right.roll(1, 0).double()
    found = names((right + former), former=(former, former))
    assert found == ["added to the output of the former call"]


class _Keeping:
    """Adds into a buffer that it never clears."""

    def __init__(self) -> None:
        self.kept: dict[tuple[int, ...], Tensor] = {}

    def forward(
        self, p: Any, x: Tensor, r: Routing, *, tactic: object = None
    ) -> Tensor:
        out = PLAIN.forward(p, x, r)
        before = self.kept.get(tuple(out.shape))
        self.kept[tuple(out.shape)] = out
        return out if before is None else out + before


def failure_of(candidate: object, word: str) -> str:
    """The text of the second call, if that fails."""
    with repeatable_settings() as settings:
        judge = Judge(subject_of(candidate), settings, "test")
        judge_output(judge, parse_case(word))
        with pytest.raises(Failure) as failure:
            judge_output(judge, parse_case(word))
    return failure.value.text


def test_a_telling_case_decides_between_causes_that_a_small_case_does_not() -> None:
    keeping = changed(PLAIN, forward=_Keeping().forward, trace=None)
    text = failure_of(keeping, "e1k1h32i32/tp1r0/t1/s0")
    assert "added to the output of the former call (in case e8k4h96i160/" in text
    assert "times 2" not in text


def test_the_first_number_that_is_not_finite_is_named_with_its_bytes() -> None:
    trace = subject_of(PLAIN)
    prepared = trace.prepare(DATA.weights, DATA.config, CASE.shard)
    stages = PLAIN.trace(prepared, DATA.hidden_states, DATA.routing)
    stages["gate_up"][3, 1, 5] = torch.inf
    [line] = first_nonfinite(stages, SITUATION)
    expert = int(DATA.routing.ids[3, 1])
    assert f"gate_up, token 3, slot 1 (expert {expert}), row 5" in line
    assert "scale 0x" in line


NOT_FINITE: dict[str, Tensor] = {
    "exactly the tokens that visit expert 2": (DATA.routing.ids == 2).any(dim=1),
    "exactly the tokens where an up half is above a number from": (
        judged().truth["gate_up"][..., 1::2].flatten(1).amax(dim=1) > 16
    ),
    "tokens 0..4, 9": torch.isin(torch.arange(37), torch.tensor([0, 1, 2, 3, 4, 9])),
}


@pytest.mark.parametrize("words", NOT_FINITE)
def test_tokens_that_are_not_finite_tell_what_they_share(words: str) -> None:
    found = judged().truth["combine"].clone()
    found[NOT_FINITE[words]] = torch.nan
    assert words in explain_nonfinite(found, judged(), SITUATION)[0]


def test_experts_taken_apart_give_the_layer_again() -> None:
    slots = Experts(SITUATION, ARITHMETIC["fp32"]).slots_of(5, RIGHT)
    truth = judged().truth["combine"][5]
    assert torch.allclose(slots.sum(dim=0), truth, rtol=1e-5, atol=1e-5)
