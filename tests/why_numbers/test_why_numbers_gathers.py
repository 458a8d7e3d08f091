"""Rows that come from elsewhere are named by how their index goes wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.case import parse_case
from mxmoe.conformance.cases.designed import make_case_data
from mxmoe.conformance.faults.plain import PLAIN
from mxmoe.conformance.faults.plain import Plain
from mxmoe.conformance.faults.plain import dequantize
from mxmoe.conformance.faults.plain import product
from mxmoe.conformance.faults.plain import subject_of
from mxmoe.conformance.why_numbers.slots.slot_sources import sets_of_tokens
from mxmoe.reference.types import Routing

Tensor = torch.Tensor
Why = Callable[[Case, Tensor], str]
CASE = parse_case("e4k2h64i96/tp1r0/t17/s0")
DATA = make_case_data(CASE)
IDS = DATA.routing.ids
T, K = IDS.shape
N = torch.arange(T * K).reshape(T, K)
ORDER = IDS.flatten().argsort(stable=True)
P = ORDER.argsort().reshape(T, K)


def layer(
    *,
    states: Tensor = N // K,
    between: Tensor = N,
    results: Tensor = N,
    weights: Tensor = DATA.routing.weights,
    candidate: Plain = PLAIN,
    beyond: float = 0.0,
) -> Tensor:
    """The output [t, h] where slots take these tokens' and slots' rows.

    beyond : what hidden states of a token that there is not are.
    """
    p = subject_of(candidate).prepare(DATA.weights, DATA.config, CASE.shard)
    x = DATA.hidden_states.float()
    x = torch.cat((x, torch.full_like(x, beyond)))
    found = []
    act = torch.zeros(T, K, DATA.config.intermediate)
    for e in range(DATA.config.experts):
        at = IDS == e
        act[at] = candidate.expert(p, e, x[states[at]])["activation"]
    act = act.flatten(0, 1)[between]
    for e in range(DATA.config.experts):
        w2 = dequantize(p["down_blocks"][e], p["down_scales"][e], torch.float32)
        found.append(act @ w2.T + p["down_bias"][e].float())
    down = torch.stack(found)[IDS.long(), N // K, N % K]
    down = down.flatten(0, 1)[results]
    return candidate.mix(weights, down).to(DATA.hidden_states.dtype)


def next_of_expert(by: int = 1) -> Tensor:
    """The slot of the next row of each slot's expert, around."""
    found = N.clone()
    for e in range(DATA.config.experts):
        mine = N[IDS == e]
        found[IDS == e] = mine.roll(-by)
    return found


def neighbours() -> Tensor:
    """The slot of the row that shares a pair with each slot's, within its expert."""
    found = N.clone()
    for e in range(DATA.config.experts):
        mine = N[IDS == e]
        row = torch.arange(len(mine))
        found[IDS == e] = mine[torch.where(row ^ 1 < len(mine), row ^ 1, row)]
    return found


ROWS: dict[str, Callable[[], Tensor]] = {
    "GEMM1 takes the hidden states of slot n + 1, not": lambda: layer(
        states=(N + 1) // K
    ),
    "GEMM1 takes the hidden states of token n % t,": lambda: layer(states=N % T),
    "GEMM1 takes the hidden states of slot p,": lambda: layer(states=P // K),
    "GEMM1 takes the hidden states of token p % t,": lambda: layer(states=P % T),
    "GEMM2 takes the intermediate of slot n + 1, modulo": lambda: layer(
        between=(N + 1) % (T * K)
    ),
    "the sum over slots takes the result of the slot at the n-th": lambda: layer(
        results=ORDER[ORDER].reshape(T, K)
    ),
    "the sum over slots takes the result of slot p,": lambda: layer(results=P),
    "takes the next row of its expert,": lambda: layer(between=next_of_expert()),
    "the sum over slots takes the weight of slot n stored as [top_k, t],": (
        lambda: layer(weights=DATA.routing.weights.reshape(K, T).T)
    ),
    "slot 0 added twice and slot 1 never": lambda: layer(
        weights=DATA.routing.weights * torch.tensor([2.0, 0.0])
    ),
    "columns in another order: column 0 holds that of column 16": lambda: layer()[
        :, torch.arange(64) ^ 16
    ],
    "takes row r xor 1 of its expert,": lambda: layer(results=neighbours()),
    # No map gives these: they are read off.
    "GEMM1 takes the hidden states of others: slot 0 of token 0 that of token 5": (
        lambda: layer(states=(N * N + 5) % T)
    ),
}


@pytest.mark.parametrize("words", ROWS)
def test_rows_of_elsewhere_are_named(why: Why, words: str) -> None:
    assert words in why(CASE, ROWS[words]())


def with_bias_of(number: Tensor) -> Tensor:
    """The output where each slot [t, k] has the gate_up bias of expert `number`."""
    biases = DATA.weights.gate_up_bias
    assert biases is not None
    out = torch.zeros(T, DATA.config.hidden)
    for e in range(DATA.config.experts):
        bias = biases[e].float()
        one = replace(PLAIN, add_gate_up_bias=lambda z, b, bias=bias: z + bias)
        weights = torch.where(number == e, DATA.routing.weights, 0)
        out += layer(weights=weights, candidate=one).float()
    return out.to(DATA.hidden_states.dtype)


def test_an_expert_whose_number_is_wrong_is_named(
    why: Why,
) -> None:
    slot = N % K
    words = "gate_up bias of expert slot % experts, not of its own"
    assert words in why(CASE, with_bias_of(slot))


def test_what_lies_beyond_a_buffer_does_not_hide_who_reads_there(
    why: Why,
) -> None:
    out = layer(states=(N + 1) // K, beyond=torch.inf)
    assert not out.isfinite().all()
    assert "GEMM1 takes the hidden states of slot n + 1, not" in why(CASE, out)


def stale_in(rows: Callable[[Tensor], Tensor]) -> Tensor:
    """An output that holds other memory where `rows` of a slot's row is true."""
    row = torch.zeros_like(P)
    for e in range(DATA.config.experts):
        row[IDS == e] = torch.arange(int((IDS == e).sum()))
    out = layer()
    wrong = rows(row).any(dim=1)
    memory = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    out[wrong] = (9 * memory[wrong]).to(out.dtype)
    return out


def test_rows_of_a_tile_that_are_never_written_are_named(
    why: Why,
) -> None:
    line = why(CASE, stale_in(lambda row: row % 4 == 3))
    assert "wrong are exactly the tokens in the last row of each full tile of 4" in line
    line = why(CASE, stale_in(lambda row: row >= 8))
    assert "wrong are exactly the tokens in the rows of an expert after its fi" in line


def test_rows_of_a_tile_that_are_not_finite_are_named(
    why: Why,
) -> None:
    out = stale_in(lambda row: row % 4 == 3)
    out[(out - layer()).abs().amax(dim=1) > 0] = torch.nan
    words = "exactly the tokens in the last row of each full tile of 4 rows"
    assert f"not finite: {words} of an expert" in why(CASE, out)


def test_few_tokens_that_are_such_a_set_by_chance_are_not_called_one() -> None:
    few = torch.zeros(T, dtype=torch.bool)
    few[-2:] = True
    assert not list(sets_of_tokens(IDS, few, IDS >= 0))


def reading_over(x: Tensor, w: Tensor) -> Tensor:
    over = -x.shape[1] % 64
    return product(x, w) + x.roll(-1, 0)[:, :over] @ w.roll(-1, 0)[:, :over].T


def evens_first(x: Tensor, w: Tensor) -> Tensor:
    if x.shape[1] != DATA.config.hidden:
        return product(x, w)
    return product(x.unflatten(1, (-1, 16, 2)).mT.flatten(1), w)


def fp8_behind_bf16() -> Plain:
    def activate(z: Tensor, a: object) -> Tensor:
        return PLAIN.activate(z, a).bfloat16().float()  # type: ignore[arg-type]

    return replace(PLAIN, activate=activate, between=torch.float8_e4m3fn)


def from_half(*given: object) -> dict[str, Tensor]:
    packed = PLAIN.pack(*given)  # type: ignore[arg-type]
    bias = packed["gate_up_bias"]
    at = torch.arange(bias.shape[1]) + torch.arange(len(bias))[:, None] * 96
    return {**packed, "gate_up_bias": bias.flatten()[at]}


STEPS: dict[str, Plain] = {
    "GEMM2 reads 32 columns behind K, up to a multiple of 64": replace(
        PLAIN, product=reading_over
    ),
    "hidden states with even lanes first in each 32": replace(
        PLAIN, product=evens_first
    ),
    "intermediate rounded to float8 (E4M3)": fp8_behind_bf16(),
    "gate_up bias of expert e begins at entry e * rows / 2": replace(
        PLAIN, pack=from_half
    ),
    "the first 32 entries of the gate_up bias used for every 32": replace(
        PLAIN, add_gate_up_bias=lambda z, b: z + b[torch.arange(len(b)) % 32]
    ),
}


@pytest.mark.parametrize("words", STEPS)
def test_what_is_read_in_another_order_is_named(why: Why, words: str) -> None:
    subject = subject_of(STEPS[words])
    prepared = subject.prepare(DATA.weights, DATA.config, CASE.shard)
    out = subject.forward(prepared, DATA.hidden_states, DATA.routing)
    assert words in why(CASE, out)


def test_a_rounding_to_bfloat16_has_one_name(
    why: Why,
) -> None:
    out = layer(candidate=replace(PLAIN, mix=rounding_slots))
    line = "why    behaves as if: each slot's result rounded to bfloat16"
    assert why(CASE, out) == line


def rounding_slots(weights: Tensor, down: Tensor) -> Tensor:
    return PLAIN.mix(weights, down.bfloat16().float())


def test_an_output_that_is_limited_is_not_called_a_factor(
    why: Why,
) -> None:
    assert "the output limited to +-2" in why(CASE, layer().clamp(-2, 2))


def test_weights_that_count_empty_slots_are_told_from_a_factor(
    why: Why,
) -> None:
    case = parse_case("e2k2h64i32/tp1r0/t1/s0/no_expert")
    data = make_case_data(case)
    weights = data.routing.weights / data.routing.weights.sum(dim=1, keepdim=True)
    subject = subject_of(PLAIN)
    prepared = subject.prepare(data.weights, data.config, case.shard)
    given = Routing(data.routing.ids, weights)
    out = subject.forward(prepared, data.hidden_states, given)
    line = why(case, out)
    assert "routing weights normalised to a sum of 1, empty slots (-1) counted" in line
