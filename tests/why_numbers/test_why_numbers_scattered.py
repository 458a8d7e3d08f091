"""Rows that are stored at the place of others are named; few slots name no capacity."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.case import parse_case
from mxmoe.conformance.cases.designed import make_case_data
from mxmoe.conformance.faults.plain import PLAIN
from mxmoe.conformance.faults.plain import dequantize
from mxmoe.conformance.faults.plain import subject_of
from mxmoe.reference.types import Routing

Tensor = torch.Tensor
Why = Callable[[Case, Tensor], str]
pytestmark = pytest.mark.usefixtures("one_thread")
CASE = parse_case("e4k2h64i96/tp1r0/t45/s0")
DATA = make_case_data(CASE)
PREPARED = subject_of(PLAIN).prepare(DATA.weights, DATA.config, CASE.shard)
STAGES = PLAIN.trace(PREPARED, DATA.hidden_states, DATA.routing)
IDS, WEIGHTS = DATA.routing.ids, DATA.routing.weights[..., None]


def stored(rows: Tensor, place: Callable[[Tensor], Tensor], how: str) -> Tensor:
    """Rows [t, k, n] of each expert at other rows `place` of it."""
    found = torch.zeros_like(rows)
    for e in range(DATA.config.experts):
        own = rows[IDS == e]
        there = torch.zeros_like(own)
        to = place(torch.arange(len(own))).tolist()
        for row, value in zip(to, own, strict=True):
            there[row] = value + (there[row] if how == "added" else 0)
        found[IDS == e] = there
    return found


def finished(slots: Tensor) -> Tensor:
    return slots.sum(dim=1).to(DATA.hidden_states.dtype)


MAPS: dict[str, Callable[[Tensor], Tensor]] = {
    "row r % 4 of its expert, its first tile again": lambda r: r % 4,
    "row r % 8 of its expert, its first tile again": lambda r: r % 8,
    "row r - 8 of its expert, the tile before": lambda r: torch.where(r < 8, r, r - 8),
    "the first row of its tile of 4 of its expert": lambda r: r // 4 * 4,
}
HOW = {"stays": "the last one stays", "added": "all are added up"}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", MAPS)
def test_results_at_the_place_of_others_are_named(
    why: Why, name: str, how: str
) -> None:
    begin, end = f"at the place of {name}, not at its own: ", HOW[how]
    down = stored(STAGES["down"], MAPS[name], how)
    line = why(CASE, finished(WEIGHTS * down))
    assert f"GEMM2 stores each slot's result {begin}{end}" in line
    assert "; or" not in line
    line = why(CASE, finished(stored(WEIGHTS * STAGES["down"], MAPS[name], how)))
    assert f"GEMM2 stores each slot's weighted result {begin}{end}" in line
    assert "; or" not in line


@pytest.mark.parametrize("name", MAPS)
def test_intermediates_at_the_place_of_others_are_named(why: Why, name: str) -> None:
    lanes = stored(STAGES["activation"], MAPS[name], "stays")
    down = torch.zeros_like(STAGES["down"])
    for e in range(DATA.config.experts):
        w2 = dequantize(
            PREPARED["down_blocks"][e], PREPARED["down_scales"][e], torch.float32
        )
        bias = PREPARED["down_bias"][e].float()
        down[IDS == e] = lanes[IDS == e] @ w2.T + bias
    line = why(CASE, finished(WEIGHTS * down))
    words = f"GEMM1 stores each slot's intermediate at the place of {name}, not at"
    assert words in line
    assert "; or" not in line


@pytest.mark.parametrize(("tokens", "named"), [(2, False), (7, False), (9, True)])
def test_a_capacity_is_named_where_few_other_sets_have_as_many_slots(
    why: Why, tokens: int, named: bool
) -> None:
    case = parse_case(f"e1k1h32i32/tp1r0/t{tokens}/s0")
    data = make_case_data(case)
    p = subject_of(PLAIN).prepare(data.weights, data.config, case.shard)
    ids = data.routing.ids.clone()
    ids[-1] = -1
    out = PLAIN.forward(p, data.hidden_states, Routing(ids, data.routing.weights))
    words = f"left out: the tokens of an expert after its first {tokens - 1}"
    assert (words in why(case, out)) is named


def test_weights_of_empty_slots_are_taken_like_others(why: Why) -> None:
    case = parse_case("e8k4h96i160/tp1r0/t37/s0/no_expert")
    data = make_case_data(case)
    ids, given = data.routing.ids, data.routing.weights
    assert bool((given[ids < 0].abs() > 100).any())
    order = torch.where(ids < 0, 8, ids).flatten().argsort(stable=True)
    weights = torch.empty_like(given).flatten()
    weights[order] = given.flatten()
    p = subject_of(PLAIN).prepare(data.weights, data.config, case.shard)
    routing = Routing(ids, weights.reshape(ids.shape))
    line = why(case, PLAIN.forward(p, data.hidden_states, routing))
    assert "the sum over slots takes the weight of slot p, not its own" in line
