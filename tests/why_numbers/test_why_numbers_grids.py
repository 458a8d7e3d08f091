"""Grids that are rounded up, chunks of tokens, slots taken for tokens are named."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.case import parse_case
from mxmoe.conformance.cases.designed import CaseData
from mxmoe.conformance.cases.designed import make_case_data
from mxmoe.conformance.faults.plain import PLAIN
from mxmoe.conformance.faults.plain import subject_of
from mxmoe.reference.types import Routing

Tensor = torch.Tensor
Why = Callable[[Case, Tensor], str]
Routed = Callable[[CaseData], Routing]
pytestmark = pytest.mark.usefixtures("one_thread")
UNEVEN = parse_case("e9k4h96i160/tp1r0/t37/s0")
HALF = parse_case("e8k4h96i160/tp1r0-ep2r0/t37/s0")
LONG = parse_case("e8k4h96i160/tp1r0/t70/s0")


def routed(case: Case, edit: Routed) -> Tensor:
    data, subject = make_case_data(case), subject_of(PLAIN)
    prepared = subject.prepare(data.weights, data.config, case.shard)
    return subject.forward(prepared, data.hidden_states, edit(data))


def right(case: Case) -> Tensor:
    return routed(case, lambda data: data.routing)


def often(grid: Tensor) -> Routed:
    """Each expert as often as it is in `grid`."""
    count = torch.bincount(grid, minlength=9)
    return lambda data: Routing(
        data.routing.ids, data.routing.weights * count[data.routing.ids.long()]
    )


GRIDS = {
    "experts added once for each e of a grid of experts rounded up to a multiple of 4, "
    "modulo their number": torch.arange(12) % 9,
    "the last expert added for each e of a grid of experts rounded up to a multiple of "
    "4 behind it": torch.arange(12).clamp(max=8),
}


@pytest.mark.parametrize("words", GRIDS)
def test_a_grid_of_experts_that_is_rounded_up_is_named(why: Why, words: str) -> None:
    out = routed(UNEVEN, often(GRIDS[words]))
    assert why(UNEVEN, out) == f"why    behaves as if: {words}"


def test_one_expert_that_is_added_twice_is_no_grid(why: Why) -> None:
    out = routed(UNEVEN, often(torch.arange(10) % 9))
    assert "expert 0's contribution times 2" in why(UNEVEN, out)


def test_of_so_few_experts_as_one_factor_fits_no_grid_is_said(why: Why) -> None:
    case = parse_case("e2k1h96i160/tp1r0/t37/s0")
    out = routed(case, lambda d: Routing(d.routing.ids, d.routing.weights * 2))
    assert "grid" not in why(case, out)


def empty(case: Case) -> Tensor:
    data = make_case_data(case)
    owned = case.shard.expert_range(data.config)
    return (data.routing.ids < owned.start) | (data.routing.ids >= owned.stop)


def padding(case: Case, tile: int) -> Tensor:
    """Of the first places, those of no slot, experts padded to tiles."""
    data = make_case_data(case)
    taken = list[bool]()
    for expert in case.shard.expert_range(data.config):
        count = int((data.routing.ids == expert).sum())
        taken += [True] * count + [False] * (-count % tile)
    taken += [False] * case.tokens
    return ~torch.tensor(taken[: case.tokens])


ERASED = {
    "slot n = token * top_k + slot has no expert on this rank": (
        HALF,
        lambda: empty(HALF).flatten()[:37],
    ),
    "slot n = slot * t + token has no expert on this rank": (
        HALF,
        lambda: empty(HALF).T.flatten()[:37],
    ),
    "place n is padding, experts padded to tiles of": (
        HALF,
        lambda: padding(HALF, 8),
    ),
}


@pytest.mark.parametrize("words", ERASED)
def test_rows_that_are_erased_by_a_slot_s_number_are_named(
    why: Why, words: str
) -> None:
    case, rows = ERASED[words]
    out = right(case).masked_fill(rows()[:, None], 0)
    said = why(case, out)
    assert said.startswith(
        f"why    behaves as if: output: row n is all zero where {words}"
    )
    assert "; or " not in said


def test_rows_that_are_erased_by_no_rule_are_listed(why: Why) -> None:
    out = right(HALF)
    out[[2, 3, 5, 7, 11, 13, 17, 19, 23]] = 0
    assert "output: tokens 2..3, 5, 7, 11, ... all zero" in why(HALF, out)


def of_chunk(ids: bool, weights: bool, before: bool) -> Routed:
    """Tokens from 16 on have these of the first chunk of 16, or of that before."""

    def edit(data: CaseData) -> Routing:
        n = torch.arange(len(data.routing.ids))
        taken = torch.where(n < 16, n, n - 16 if before else n % 16)
        given = data.routing
        return Routing(
            given.ids[taken] if ids else given.ids,
            given.weights[taken] if weights else given.weights,
        )

    return edit


CHUNKS = {
    "expert ids and routing weights of the first": of_chunk(True, True, False),
    "expert ids of the first": of_chunk(True, False, False),
    "routing weights of the first": of_chunk(False, True, False),
    "expert ids of the chunk before": of_chunk(True, False, True),
}


@pytest.mark.parametrize("words", CHUNKS)
def test_what_later_chunks_of_tokens_use_again_is_named(why: Why, words: str) -> None:
    out = routed(LONG, CHUNKS[words])
    assert f"tokens in chunks of 16: later chunks use the {words}" in why(LONG, out)
