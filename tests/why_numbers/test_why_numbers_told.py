"""What a wrong output behaves like is named, and nothing is named without a cause."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from mxmoe.conformance.bounds.propagated import Judged
from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.case import parse_case
from mxmoe.conformance.cases.designed import make_case_data
from mxmoe.conformance.faults.activation import activations_in_mxfp4
from mxmoe.conformance.faults.plain import PLAIN
from mxmoe.conformance.faults.plain import Plain
from mxmoe.conformance.faults.plain import subject_of
from mxmoe.conformance.faults.plain import swiglu
from mxmoe.reference.types import Activation
from mxmoe.reference.types import Routing

Tensor = torch.Tensor
Why = Callable[[Case, Tensor], str]
CASE = parse_case("e4k2h64i96/tp1r0/t17/s0")
DATA = make_case_data(CASE)


def output_of(candidate: object = PLAIN, weights: Tensor | None = None) -> Tensor:
    subject = subject_of(candidate)
    prepared = subject.prepare(DATA.weights, DATA.config, CASE.shard)
    routing = DATA.routing
    if weights is not None:
        routing = Routing(routing.ids, weights)
    return subject.forward(prepared, DATA.hidden_states, routing)


def zeroed(out: Tensor, *at: slice) -> Tensor:
    out[at] = 0
    return out


OUTPUTS: dict[str, Callable[[], Tensor]] = {
    "output all zero": lambda: torch.zeros_like(output_of()),
    "output: columns 48..63 all zero": lambda: zeroed(
        output_of(), slice(None), slice(48, None)
    ),
    "output: token 16 all zero": lambda: zeroed(output_of(), slice(16, None)),
    "the whole output times 0.8": lambda: (output_of().float() * 0.8).bfloat16(),
    "each token holds the output of token n - 1": lambda: output_of().roll(1, 0),
    "each column holds the output of column n - 1": lambda: output_of().roll(1, 1),
    "tokens in another order: token 0 holds that of token 1": lambda: torch.cat(
        (output_of()[:2].flip(0), output_of()[2:])
    ),
    "the hidden states are added": lambda: output_of() + DATA.hidden_states,
}


@pytest.mark.parametrize("words", OUTPUTS)
def test_what_the_output_itself_tells_is_named(why: Why, words: str) -> None:
    assert words in why(CASE, OUTPUTS[words]())


GIVEN = DATA.routing.weights
LEAST = GIVEN == GIVEN.amin(dim=1, keepdim=True)


def of_the_first(count: int) -> Tensor:
    """The weights of each expert's first tokens; 0 for the others."""
    kept = GIVEN.clone()
    for expert in range(DATA.config.experts):
        late = (DATA.routing.ids == expert).nonzero()[count:]
        kept[late[:, 0], late[:, 1]] = 0
    return kept


WEIGHTS: dict[str, Tensor] = {
    "routing weights in reverse slot order": GIVEN.roll(1, 1),
    "every slot has the weight of the first": GIVEN[:, :1].expand_as(GIVEN),
    "left out: each token's slot with the smallest": GIVEN.masked_fill(LEAST, 0),
    "left out: all of expert 2": GIVEN * (DATA.routing.ids != 2),
    "left out: the tokens of an expert after its first 5": of_the_first(5),
    "expert 1's contribution times 0.9": GIVEN
    * torch.where(DATA.routing.ids == 1, 0.9, 1.0),
    "routing weights of the token before": GIVEN.roll(1, 0),
    "one factor a token": GIVEN * torch.linspace(0.5, 2, len(GIVEN))[:, None],
    "slots added with other weights": GIVEN
    * torch.linspace(0.5, 2, GIVEN.numel()).reshape(GIVEN.shape),
}


@pytest.mark.parametrize("words", WEIGHTS)
def test_other_weights_of_the_slots_are_named(why: Why, words: str) -> None:
    assert words in why(CASE, output_of(weights=WEIGHTS[words].contiguous()))


def acting(edit: Callable[[Activation], Activation]) -> Plain:
    return replace(PLAIN, activate=lambda z, a: swiglu(z, edit(a)))


def sigmoid_of_up(z: Tensor, a: Activation) -> Tensor:
    gate, up = z.unflatten(-1, (-1, 2)).unbind(-1)
    gate, up = gate.clamp(max=a.limit), up.clamp(-a.limit, a.limit)
    return gate * torch.sigmoid(a.alpha * up) * (up + a.beta)


CANDIDATES: dict[str, object] = {
    "limit of the activation is 7.5, not 7": acting(lambda a: replace(a, limit=7.5)),
    "alpha of the activation is 1.2": acting(lambda a: replace(a, alpha=1.2)),
    "gate_up_bias: doubled": replace(PLAIN, add_gate_up_bias=lambda z, b: z + 2 * b),
    "down bias times 3": replace(PLAIN, add_down_bias=lambda y, b, s: y + 3 * b),
    "sigmoid of the up half": replace(PLAIN, activate=sigmoid_of_up),
    "intermediate quantised to MXFP4": activations_in_mxfp4.plant(),
    "intermediate rounded to float8": replace(PLAIN, between=torch.float8_e4m3fn),
}


@pytest.mark.parametrize("words", CANDIDATES)
def test_a_step_done_otherwise_is_named(why: Why, words: str) -> None:
    assert words in why(CASE, output_of(CANDIDATES[words]))


def test_nothing_is_named_for_noise(why: Why) -> None:
    random = torch.Generator().manual_seed(0)
    noise = torch.randn(DATA.hidden_states.shape, generator=random)
    line = why(CASE, output_of() + noise.bfloat16())
    assert line == "why    none of the known hypotheses gives this output"


def test_a_rounding_just_beyond_the_bound_is_called_one(
    why: Why, judged: Callable[[Case], Judged]
) -> None:
    out = output_of().double()
    out[3, 7] = (judged(CASE).truth["combine"] + 1.2 * judged(CASE).allowed["combine"])[
        3, 7
    ]
    assert why(CASE, out).startswith("why    close to the bound")


BIASES: dict[str, Callable[[Tensor], Tensor]] = {
    "the gate's bias added to gate and up": lambda b: b[:, [0, 0]],
    "the up half's bias added to gate and up": lambda b: b[:, [1, 1]],
}


@pytest.mark.parametrize("words", BIASES)
def test_a_bias_that_the_wrong_half_gets_is_named(why: Why, words: str) -> None:
    bias = DATA.weights.gate_up_bias
    assert bias is not None
    edited = BIASES[words](bias.unflatten(1, (-1, 2)).movedim(1, 2)).movedim(1, 2)
    weights = replace(DATA.weights, gate_up_bias=edited.flatten(1))
    subject = subject_of(PLAIN)
    prepared = subject.prepare(weights, DATA.config, CASE.shard)
    out = subject.forward(prepared, DATA.hidden_states, DATA.routing)
    assert words in why(CASE, out)


ELSEWHERE: dict[str, Callable[[Tensor], Tensor]] = {
    "visit expert id % 4 of this rank": lambda ids: ids % 4,
    "visit this rank's nearest expert": lambda ids: ids.clamp(max=3),
    "visit this rank's first expert": lambda ids: ids.masked_fill(ids > 3, 0),
}


@pytest.mark.parametrize("words", ELSEWHERE)
def test_a_rank_that_serves_the_experts_of_others_is_named(
    why: Why, words: str
) -> None:
    case = parse_case("e8k4h64i96/tp1r0-ep2r0/t17/s0")
    data, subject = make_case_data(case), subject_of(PLAIN)
    prepared = subject.prepare(data.weights, data.config, case.shard)
    routing = Routing(ELSEWHERE[words](data.routing.ids), data.routing.weights)
    out = subject.forward(prepared, data.hidden_states, routing)
    line = why(case, out)
    assert line == f"why    behaves as if: slots of other ranks' experts {words}"
