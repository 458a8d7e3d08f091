"""Rules of indices are named: of rows that are taken, of slots that are left out."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch

from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.case import parse_case
from mxmoe.conformance.cases.designed import CaseData
from mxmoe.conformance.cases.designed import make_case_data
from mxmoe.conformance.faults.plain import PLAIN
from mxmoe.conformance.faults.plain import dequantize
from mxmoe.conformance.faults.plain import subject_of

Tensor = torch.Tensor
Why = Callable[[Case, Tensor], str]
pytestmark = pytest.mark.usefixtures("one_thread")
SMALL, LONG = "e8k4h96i160/tp1r0/t37/s0", "e4k2h64i64/tp1r0/t150/s0"


class Layer:
    """What the slots of a case make of their rows. n : numbers of slots, [t, k]."""

    def __init__(self, word: str) -> None:
        self.case = parse_case(word)
        self.data: CaseData = make_case_data(self.case)
        self.ids, self.weights = self.data.routing.ids, self.data.routing.weights
        (self.t, self.k), config = self.ids.shape, self.data.config
        self.n = torch.arange(self.t * self.k).reshape(self.t, self.k)
        self.experts = range(config.experts)
        subject, shard = subject_of(PLAIN), self.case.shard
        self.p: Any = subject.prepare(self.data.weights, config, shard)
        x = self.data.hidden_states.float()
        self.act = torch.zeros(self.t, self.k, config.intermediate)
        for e in self.experts:
            rows = x[self.of(e) // self.k]
            self.act[self.ids == e] = PLAIN.expert(self.p, e, rows)["activation"]
        self.down = self.results()

    def of(self, e: int) -> Tensor:
        """The slots of expert e, in order."""
        return self.n[self.ids == e]

    def results(self, between: Tensor | None = None) -> Tensor:
        """What GEMM2 and its bias make of the intermediate of these slots [t, k]."""
        act = self.act.flatten(0, 1)[self.n if between is None else between]
        found = torch.zeros(self.t, self.k, self.data.config.hidden)
        for e in self.experts:
            own = self.ids == e
            w2 = dequantize(
                self.p["down_blocks"][e], self.p["down_scales"][e], torch.float32
            )
            found[own] = act[own] @ w2.T + self.p["down_bias"][e].float()
        return found

    def added(
        self, *, down: Tensor | None = None, weights: Tensor | None = None
    ) -> Tensor:
        """The output [t, h]."""
        total = PLAIN.mix(
            self.weights if weights is None else weights,
            self.down if down is None else down,
        )
        return total.to(self.data.hidden_states.dtype)

    def rows(self, order: Callable[[Tensor], Tensor]) -> Tensor:
        """The slot [t, k] that each takes, `order` of the slots of its expert."""
        found = self.n.clone()
        for e in self.experts:
            found[self.ids == e] = order(self.of(e))
        return found


layer = cache(Layer)

GEMM2_ROWS: dict[str, Callable[[Layer], Tensor]] = {
    "slot n // top_k, not": lambda s: s.n // s.k,
    "slot n % t, not": lambda s: s.n % s.t,
    "slot n * top_k, modulo": lambda s: s.n * s.k % s.n.numel(),
    "the slot at position n // top_k of": lambda s: s.ids.flatten().argsort(
        stable=True
    )[s.n // s.k],
    "slot n // top_k * top_k, not": lambda s: s.n // s.k * s.k,
    "slot n xor 2, not": lambda s: (s.n ^ 2).clamp(max=s.n.numel() - 1),
}


@pytest.mark.parametrize("words", GEMM2_ROWS)
def test_a_wrong_map_of_the_rows_of_gemm2_is_named(why: Why, words: str) -> None:
    small = layer(SMALL)
    out = small.added(down=small.results(GEMM2_ROWS[words](small)))
    assert f"GEMM2 takes the intermediate of {words}" in why(small.case, out)


def one_of(token: Callable[[Layer], Tensor]) -> Callable[[Layer], Tensor]:
    """All slots of a token take the row of its slot `token` [t]."""
    return lambda s: (torch.arange(s.t) * s.k + token(s))[:, None].expand(s.t, s.k)


ONE_OF_A_TOKEN: dict[str, Callable[[Layer], Tensor]] = {
    "the slot of its token with the highest expert id, not": one_of(
        lambda s: s.ids.argmax(dim=1)
    ),
    "the slot of its token with the lowest expert id, not": one_of(
        lambda s: s.ids.argmin(dim=1)
    ),
    "the slot of its token with the lowest routing weight, not": one_of(
        lambda s: s.weights.argmin(dim=1)
    ),
    "slot of the last one of its token, not": one_of(lambda s: s.n[:, -1] % s.k),
}


@pytest.mark.parametrize("words", ONE_OF_A_TOKEN)
def test_all_slots_of_a_token_that_take_the_row_of_one_are_named(
    why: Why, words: str
) -> None:
    small = layer(SMALL)
    source = ONE_OF_A_TOKEN[words](small)
    line = why(small.case, small.added(down=small.down.flatten(0, 1)[source]))
    assert f"the sum over slots takes the result of {words}" in line
    assert "; or" not in line


@pytest.mark.parametrize(
    ("words", "token"),
    [
        ("only the first slot added", lambda s: torch.zeros_like(s.ids[:, 0])),
        (
            "only the slot with the largest routing weight added",
            lambda s: s.weights.argmax(dim=1),
        ),
    ],
)
def test_a_slot_that_takes_the_place_of_all_is_named(
    why: Why, words: str, token: Callable[[Layer], Tensor]
) -> None:
    small = layer(SMALL)
    source = one_of(token)(small)
    line = why(small.case, small.added(down=small.down.flatten(0, 1)[source]))
    assert line == f"why    behaves as if: {words}, with weight 1"


def late(order: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda rows: torch.cat((rows[:16], order(rows[16:])))


def rest(order: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def of(rows: Tensor) -> Tensor:
        full = len(rows) // 16 * 16
        return torch.cat((rows[:full], order(rows[full:])))

    return of


def pairs(rows: Tensor) -> Tensor:
    at = torch.arange(len(rows))
    return rows[torch.where(at ^ 1 < len(rows), at ^ 1, at)]


ORDERS: dict[str, Callable[[Tensor], Tensor]] = {
    "the opposite row of its expert, not its own, in its rows from 16 on": late(
        lambda x: x.flip(0)
    ),
    "the next row of its expert, not its own, in its rows behind its full tiles of": (
        rest(lambda x: x.roll(-1))
    ),
    "the row before of its expert, not its own, in its first 32 rows": lambda x: (
        torch.cat((x[:32].roll(1), x[32:]))
    ),
    "the opposite row of its expert, not its own, in its rows, each tile of 16": (
        lambda x: torch.cat([part.flip(0) for part in x.split(16)])
    ),
    "row r xor 1 of its expert, not its own (r = its row of its expert), in its rows "
    "from 16 on": late(pairs),
    "the row half of them further of its expert, not its own": lambda x: x.roll(
        -(len(x) // 2)
    ),
}
BOTH = "GEMM1 or GEMM2 or the sum over slots (the gather or the un-permute) takes "


@pytest.mark.parametrize("words", ORDERS)
def test_rows_of_an_expert_in_another_order_are_named(why: Why, words: str) -> None:
    many = layer(LONG)
    source = many.rows(ORDERS[words])
    line = why(many.case, many.added(down=many.down.flatten(0, 1)[source]))
    assert BOTH + words in line


def test_results_that_are_added_to_other_tokens_with_their_weights_are_named(
    why: Why,
) -> None:
    many = layer(LONG)
    source = many.rows(late(lambda x: x.flip(0)))
    down = many.down.flatten(0, 1)[source]
    out = many.added(down=down, weights=many.weights.flatten()[source])
    words = "the sum over slots takes the weighted result of the opposite row of its"
    assert words in why(many.case, out)


def beside(s: Layer, at: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Slots [t, k] whose token visits another expert f with at(e, f), e its own."""
    return at(s.ids[:, :, None], s.ids[:, None, :]).any(dim=2)


def in_a_later_tile(s: Layer, tile: int, size: int) -> Tensor:
    """Slots [t, k] whose token has a row in a later tile that is in flight with theirs.

    Tiles of `tile` rows are numbered in turn, and `size` are in flight at a time.
    """
    number, first = torch.zeros_like(s.n), 0
    for e in s.experts:
        row = torch.arange(len(s.of(e)))
        number[s.ids == e] = first + row // tile
        first += -(-len(row) // tile)
    own, other = number[:, :, None], number[:, None, :]
    return ((own // size == other // size) & (other > own)).any(dim=2)


LATER_TILE = "where the token also has a row in a later tile of its group of"
MISSING: dict[str, Callable[[Layer], Tensor]] = {
    "where the token also visits the next expert (": lambda s: beside(
        s, lambda e, f: f == e + 1
    ),
    "where the token also visits a later expert of its group of 2 (": lambda s: beside(
        s, lambda e, f: (f // 2 == e // 2) & (f > e)
    ),
    "where the token also has a later slot of its group of 2 (": lambda s: s.n % 2 == 0,
    f"{LATER_TILE} 4 tiles of 8 rows (": lambda s: in_a_later_tile(s, 8, 4),
    f"{LATER_TILE} 4 tiles of 16 rows (": lambda s: in_a_later_tile(s, 16, 4),
}


@pytest.mark.parametrize("words", MISSING)
def test_slots_left_out_for_other_slots_of_the_token_are_named(
    why: Why, words: str
) -> None:
    small = layer(SMALL)
    out = small.added(weights=small.weights.where(~MISSING[words](small), 0))
    assert f"left out: {words}" in why(small.case, out)


def counted(gone: Callable[[Tensor, int], Tensor]) -> Callable[[Layer], Tensor]:
    """`gone` of rows and their number, for each expert."""

    def of(s: Layer) -> Tensor:
        found = torch.zeros_like(s.ids, dtype=torch.bool)
        for e in s.experts:
            count = len(s.of(e))
            found[s.ids == e] = gone(torch.arange(count), count)
        return found

    return of


COUNTS: dict[str, Callable[[Layer], Tensor]] = {
    "the slots of each expert after its first c mod 16, 32 or 64 of c (a count": (
        counted(lambda row, c: row >= c % 64)
    ),
    "all before the last tile of 16, 32 or 64 rows of an expert": counted(
        lambda row, c: row < (c - 1) // 16 * 16
    ),
    "the second half of each tile of 32 rows of an expert": counted(
        lambda row, c: row % 32 >= 16
    ),
    "when all are sorted by expert, slots from number 150 on": lambda s: (
        s.ids.flatten().argsort(stable=True).argsort().reshape(s.ids.shape) >= 150
    ),
}


@pytest.mark.parametrize("words", COUNTS)
def test_slots_left_out_by_their_place_are_named(why: Why, words: str) -> None:
    many = layer(LONG)
    gone = COUNTS[words](many)
    out = many.added(weights=many.weights.where(~gone, 0))
    assert f"left out: {words}" in why(many.case, out)


def test_slots_added_twice_by_a_rule_are_named(why: Why) -> None:
    many = layer(LONG)
    more = counted(lambda row, c: row >= c % 64)(many)
    out = many.added(weights=many.weights * torch.where(more, 2, 1))
    words = (
        "added twice: the slots of each expert after its first c mod 16, 32 or 64 of c"
    )
    assert words in why(many.case, out)


def test_slots_left_out_by_no_rule_are_listed(why: Why) -> None:
    many = layer(LONG)
    random = torch.Generator().manual_seed(0)
    gone = torch.rand(many.ids.shape, generator=random) < 0.3
    line = why(many.case, many.added(weights=many.weights.where(~gone, 0)))
    assert f"left out: {int(gone.sum())} of {gone.numel()} slots, first" in line
