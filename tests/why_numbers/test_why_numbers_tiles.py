"""Faults of a kernel's tiles of rows are named.

What is left in accumulators, in rows of padding, in rows of slots without an expert.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field
from typing import Any

import pytest
import torch

from mxmoe.conformance.cases.case import parse_case
from mxmoe.conformance.faults.plain import PLAIN
from mxmoe.conformance.faults.plain import Plain
from mxmoe.conformance.faults.plain import changed
from mxmoe.conformance.faults.plain import subject_of
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.judging.numbers import judge_output
from mxmoe.conformance.judging.trial import repeatable_settings
from mxmoe.conformance.verdict import Failure
from mxmoe.reference.types import Routing

Tensor = torch.Tensor
pytestmark = pytest.mark.usefixtures("one_thread")
CASE = "e4k2h64i96/tp1r0/t33/s0"
SMALL = "e1k1h32i32/tp1r0/t{}/s0"


def why(candidate: object, word: str, before: str | None = None) -> str:
    """The line about the cause, of a candidate that shows no trace."""
    with repeatable_settings() as settings:
        judge = Judge(subject_of(changed(candidate, trace=None)), settings, "test")
        if before is not None:
            judge_output(judge, parse_case(before))
        with pytest.raises(Failure) as failure:
            judge_output(judge, parse_case(word))
    (line,) = (x for x in failure.value.text.splitlines() if x.startswith("why  "))
    return line.removeprefix("why    ")


@dataclass(frozen=True, kw_only=True)
class Keeping(Plain):
    """Accumulators of `gemm` that are cleared where `clears` says so.

    clears : of the number of a tile within its expert.
    """

    tile: int
    gemm: int
    clears: Callable[[int], bool]
    kept: list[Tensor] = field(default_factory=list)
    calls: list[None] = field(default_factory=list)

    def multiplied(self, x: Tensor, w: Tensor) -> Tensor:
        """x @ w.T of one expert, both GEMMs in turn."""
        self.calls.append(None)
        whole = x @ w.T
        if len(self.calls) % 2 != self.gemm % 2:
            return whole
        found = []
        for number, own in enumerate(whole.split(self.tile)):
            total = whole.new_zeros(self.tile, len(w))
            total[: len(own)] = own
            if self.kept and not self.clears(number):
                total = total + self.kept[-1]
            self.kept[:] = [total]
            found.append(total[: len(own)])
        return torch.cat(found)

    def trace(self, prepared: Any, x: Tensor, routing: Routing) -> dict[str, Tensor]:
        """One launch, whose first tile begins with cleared accumulators."""
        self.kept.clear()
        self.calls.clear()
        multiplying = Plain(product=self.multiplied)
        return multiplying.trace(prepared, x, routing)


ACCUMULATORS: dict[str, tuple[Callable[[int], bool], int, int]] = {
    "GEMM1 begins each tile of 8 rows with the sums of the tiles before of its": (
        lambda number: number == 0,
        8,
        1,
    ),
    "GEMM2 begins each tile of 16 rows with the sums of the tiles before, of other": (
        lambda number: False,
        16,
        2,
    ),
    "GEMM1 begins each tile of 8 rows with the sums of the last tile of the expert": (
        lambda number: number > 0,
        8,
        1,
    ),
}


@pytest.mark.parametrize("words", ACCUMULATORS)
def test_accumulators_that_are_not_cleared_are_named(words: str) -> None:
    clears, tile, gemm = ACCUMULATORS[words]
    line = why(Keeping(tile=tile, gemm=gemm, clears=clears), CASE)
    assert line.startswith(f"behaves as if: {words}")
    assert "; or" not in line


def test_a_tile_that_only_many_rows_fill_is_told_by_a_case_that_has_them() -> None:
    keeping = Keeping(tile=64, gemm=1, clears=lambda number: number == 0)
    line = why(keeping, SMALL.format(65))
    assert "GEMM1 begins each tile of 64 rows with the sums of the tiles before" in line
    assert "; or" not in line


def with_slots(
    edit: Callable[[Tensor, Any, Tensor, Routing], Tensor],
) -> object:
    """`edit` of what slots gave [t, k, h], prepared, hidden states and routing."""

    def forward(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
        down = edit(PLAIN.trace(p, x, r)["down"].clone(), p, x, r)
        return (r.weights[..., None] * down).sum(dim=1).to(x.dtype)

    return changed(PLAIN, forward=forward)


def padding(make: Callable[[Any, Tensor], Tensor]) -> object:
    """The last slot's row holds what the last expert makes of `make`'s row."""

    def edit(down: Tensor, p: Any, x: Tensor, r: Routing) -> Tensor:
        row = make(p, x.float())
        last = p.config.experts - 1
        down[-1, -1] = PLAIN.expert(p, last, row)["down"][0]
        return down

    return with_slots(edit)


def test_rows_of_padding_in_the_last_place_are_named() -> None:
    clamped = padding(lambda p, x: x[:1])
    words = "the result of the last slot of the last token is what expert 7 makes of "
    where = "(in case e8k4h96i160/tp1r0/t37/s0)"
    line = why(clamped, CASE)
    assert f"{words}token 0: rows of padding are written there? {where}" in line


@pytest.mark.nightly
def test_rows_of_zeros_in_the_last_place_are_named() -> None:
    words = "the result of the last slot of the last token is what expert 7 makes of "
    masked = padding(lambda p, x: 0 * x[:1])
    assert f"{words}hidden states of 0" in why(masked, CASE)


def garbage(down: Tensor, *_: object) -> Tensor:
    random = torch.Generator().manual_seed(3)
    down[-1, -1] = 5 * torch.randn(down.shape[2], generator=random)
    return down


@pytest.mark.parametrize("tokens", [1, pytest.param(17, marks=pytest.mark.nightly)])
def test_what_one_token_alone_does_not_follow_is_not_called_never_read(
    tokens: int,
) -> None:
    line = why(with_slots(garbage), SMALL.format(tokens))
    assert "not followed" not in line
    assert "wrong is one token only, the last of 37 tokens" in line


def test_a_row_that_is_always_the_same_is_not_called_the_former_output() -> None:
    def forward(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
        out = PLAIN.forward(p, x, r)
        out[-1] = torch.linspace(-9, 9, out.shape[1])
        return out

    line = why(changed(PLAIN, forward=forward), SMALL.format(17))
    assert "former call" not in line
    assert "the same numbers for other hidden states" in line


def leaving_out(tile: int) -> object:
    def edit(down: Tensor, p: Any, x: Tensor, r: Routing) -> Tensor:
        for e in range(p.config.experts):
            at = (r.ids == e).nonzero()[tile - 1 :: tile]
            down[at[:, 0], at[:, 1]] = 0
        return down

    return with_slots(edit)


@pytest.mark.parametrize("tile", [16, 64, 128])
def test_the_last_row_of_a_tile_is_named_though_one_token_is_wrong(tile: int) -> None:
    line = why(leaving_out(tile), SMALL.format(tile))
    words = f"left out: the last row of each full tile of {tile} rows of an expert"
    assert words in line
    assert "; or" not in line


def test_a_last_row_of_anything_is_not_called_the_weight_of_another_slot() -> None:
    """With one expert all weights are 1, and what lies beyond the last is not known."""

    def edit(down: Tensor, *_: object) -> Tensor:
        return garbage(down) if len(down) >= 64 else down

    assert "weight of slot" not in why(with_slots(edit), SMALL.format(64))


EMPTY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "slot 0 of token 0": lambda flat, ids: torch.zeros_like(ids),
    "the last slot when all are sorted by expert": lambda flat, ids: torch.full_like(
        ids, int((ids == ids.max()).flatten().nonzero()[-1, 0])
    ),
    "slot n - 1": lambda flat, ids: torch.arange(ids.numel()).reshape(ids.shape) - 1,
}


@pytest.mark.parametrize("words", EMPTY)
@pytest.mark.parametrize(
    ("who", "word"),
    [
        ("slots without an expert (-1)", "e4k2h64i96/tp1r0/t17/s0/no_expert"),
        ("slots of other ranks' experts", "e8k4h64i96/tp1r0-ep2r0/t17/s0"),
    ],
)
def test_rows_that_slots_without_an_expert_add_are_named(
    words: str, who: str, word: str
) -> None:
    def edit(down: Tensor, p: Any, x: Tensor, r: Routing) -> Tensor:
        owned = p.shard.expert_range(p.config)
        served = (r.ids >= owned.start) & (r.ids < owned.stop)
        at = EMPTY[words](down, torch.where(served, r.ids.long(), -1))
        return torch.where(served[..., None], down, down.flatten(0, 1)[at])

    assert f"{who} add the result of {words}" in why(with_slots(edit), word)


# (words, the local expert of ids [t, k], the row that it multiplies)
MADE: dict[
    str, tuple[Callable[[Tensor, range], Tensor], Callable[[Tensor], Tensor]]
] = {
    "what the rank's first expert makes of hidden states of 0": (
        lambda ids, owned: torch.zeros_like(ids),
        lambda x: 0 * x[:1],
    ),
    "what the rank's last expert makes of token 0": (
        lambda ids, owned: torch.full_like(ids, len(owned) - 1),
        lambda x: x[:1],
    ),
    "what expert id modulo 4 of the rank makes of hidden states of 0": (
        lambda ids, owned: ids % len(owned),
        lambda x: 0 * x[:1],
    ),
}


@pytest.mark.parametrize("words", MADE)
@pytest.mark.parametrize("weighted", [True, False])
def test_what_an_expert_makes_for_slots_that_are_not_its_own_is_named(
    words: str, weighted: bool
) -> None:
    expert_of, row_of = MADE[words]

    def edit(down: Tensor, p: Any, x: Tensor, r: Routing) -> Tensor:
        owned = p.shard.expert_range(p.config)
        row = row_of(x.float())
        made = torch.cat([PLAIN.expert(p, e, row)["down"] for e in range(len(owned))])
        served = (r.ids >= owned.start) & (r.ids < owned.stop)
        rows = made[expert_of(r.ids.long(), owned)]
        rows = rows if weighted else rows / r.weights[..., None]
        return torch.where(served[..., None], down, rows)

    line = why(with_slots(edit), "e8k4h64i96/tp1r0-ep2r1/t17/s0")
    how = "" if weighted else ", not weighted"
    assert f"slots of other ranks' experts add {words}{how}" in line


def test_what_an_expert_makes_of_nothing_for_empty_slots_is_named() -> None:
    def edit(down: Tensor, p: Any, x: Tensor, r: Routing) -> Tensor:
        made = PLAIN.expert(p, 3, 0 * x[:1].float())["down"]
        return torch.where((r.ids >= 0)[..., None], down, made)

    line = why(with_slots(edit), "e4k2h64i96/tp1r0/t17/s0/no_expert")
    words = "(-1) add what the rank's last expert makes of hidden states of 0"
    assert words in line


def test_rows_that_the_former_call_left_are_named() -> None:
    memory: dict[torch.Size, Tensor] = {}

    def edit(down: Tensor, p: Any, x: Tensor, r: Routing) -> Tensor:
        before = memory.get(down.shape, torch.zeros_like(down))
        memory[down.shape] = torch.where((r.ids >= 0)[..., None], down, before)
        return memory[down.shape]

    word = "e4k2h64i96/tp1r0/t17/s0/no_expert"
    line = why(with_slots(edit), word, before=word.removesuffix("/no_expert"))
    words = "slots without an expert (-1) add what the former call left in row n"
    assert words in line


def test_rows_that_the_former_call_left_weighted_are_named() -> None:
    memory: dict[torch.Size, Tensor] = {}

    def edit(down: Tensor, p: Any, x: Tensor, r: Routing) -> Tensor:
        weights = r.weights[..., None]
        before = memory.get(down.shape, torch.zeros_like(down))
        memory[down.shape] = torch.where(
            (r.ids >= 0)[..., None], weights * down, before
        )
        return memory[down.shape] / weights

    word = "e4k2h64i96/tp1r0/t17/s0/no_expert"
    line = why(with_slots(edit), word, before=word.removesuffix("/no_expert"))
    words = "(-1) add what the former call left in row n, with that row's weight"
    assert words in line
