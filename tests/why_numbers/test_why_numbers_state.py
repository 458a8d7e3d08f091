"""A later call, poisoned memory and other batches have causes of their own."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.case import parse_case
from mxmoe.conformance.faults import claims
from mxmoe.conformance.faults import state
from mxmoe.conformance.faults.plain import PLAIN
from mxmoe.conformance.faults.plain import Tensor
from mxmoe.conformance.faults.plain import changed
from mxmoe.conformance.faults.plain import claiming
from mxmoe.conformance.faults.plain import subject_of
from mxmoe.conformance.judging import state as judge_state
from mxmoe.conformance.judging import tokens as judge_tokens
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.judging.trial import repeatable_settings
from mxmoe.conformance.settings import Settings
from mxmoe.conformance.verdict import Failure
from mxmoe.conformance.why_numbers.pairs.neighbours import spoiled_by
from mxmoe.reference.types import Routing

pytestmark = pytest.mark.usefixtures("one_thread")

Check = Callable[[Judge, Case], None]
SMALL, RANK = "e1k1h32i32/tp1r0/t1/s0", "e4k2h96i64/tp2r1-ep2r1/t17/s0/no_expert"
BATCH = "e4k2h64i96/tp1r0/t136/s0"


@pytest.fixture(scope="module")
def settings() -> Iterator[Settings]:
    with repeatable_settings(layers=(0,)) as found:
        yield found


def text_of(check: Check, candidate: object, word: str, settings: Settings) -> str:
    judge = Judge(subject_of(candidate), settings, "test")
    try:
        check(judge, parse_case(word))
    except Failure as failure:
        return failure.text
    return ""


def calling(forward: Callable[[Any, Tensor, Routing], Tensor]) -> object:
    return state.calling(PLAIN, forward)


class Keeping:
    """Routing weights of the first call of a size are used again."""

    def __init__(self) -> None:
        self.first: dict[int, Tensor] = {}

    def forward(self, p: Any, x: Tensor, r: Routing) -> Tensor:
        kept = self.first.setdefault(len(x), r.weights.clone())
        return PLAIN.forward(p, x, Routing(r.ids, kept))


def last_of_64(p: Any, x: Tensor, r: Routing) -> Tensor:
    out = PLAIN.forward(p, x, r)
    if len(x) % 64 == 1 and len(x) > 64:
        out[-1] = 0
    return out


def spoiling(others: Callable[[Tensor, Tensor], Tensor]) -> object:
    """others(tokens that are not finite, ids) are not finite, too."""

    def forward(p: Any, x: Tensor, r: Routing) -> Tensor:
        out = PLAIN.forward(p, x, r)
        out[others(~x.isfinite().all(dim=1), r.ids)] = torch.nan
        return out

    return calling(forward)


def of_its_tile(bad: Tensor, ids: Tensor) -> Tensor:
    tile = torch.arange(len(bad)) // 16
    return torch.isin(tile, tile[bad])


def of_its_experts(bad: Tensor, ids: Tensor) -> Tensor:
    return torch.isin(ids, ids[bad].flatten()).any(dim=1)


def of_all(bad: Tensor, ids: Tensor) -> Tensor:
    return bad.any().expand(len(bad))


CAUSES: dict[str, tuple[Check, object, str]] = {
    "behaves as if: hidden states of the first call, in the first 1 row\n": (
        judge_state.second_call,
        state.stale_on_second_call.plant(),
        SMALL,
    ),
    "behaves as if: routing weights of the first call\n": (
        judge_state.second_call,
        calling(Keeping().forward),
        "e4k2h64i96/tp1r0/t5/s0",
    ),
    "behaves as if: added to the output of the first call\n": (
        judge_state.second_call,
        state.accumulates_into_its_output.plant(),
        SMALL,
    ),
    "behaves as if: weights of the layer that was prepared last\n": (
        judge_state.second_call,
        state.next_layer_takes_the_place.plant(),
        SMALL,
    ),
    "behaves as if: down scales twice as large": (
        judge_state.second_call,
        state.weights_drift.plant(),
        SMALL,
    ),
    "memory is read that forward has not written, for exactly the tokens that no ": (
        judge_state.poisoned,
        state.unowned_rows_uninit.plant(),
        RANK,
    ),
    "memory is read that forward has not written, for every token": (
        judge_state.poisoned,
        state.k_tail_unmasked.plant(),
        SMALL,
    ),
    "the same token alone: every row of batches from 65 tokens on": (
        judge_state.batch_invariant,
        claims.batch_variant_beyond_64.plant(),
        "e4k2h64i96/tp1r0/t129/s0",
    ),
    "the same token alone: the last row of batches of an odd number": (
        judge_state.batch_invariant,
        claims.last_row_of_a_batch_differs.plant(),
        "e4k2h64i96/tp1r0/t17/s0",
    ),
    "behaves as if: output: token 64 all zero\nwrong at 2 of 136 counts: counts 65,": (
        judge_tokens.every_token_count,
        calling(last_of_64),
        BATCH,
    ),
    "wrong are exactly those of its tile of 16 tokens\n": (
        judge_tokens.bad_neighbour,
        spoiling(of_its_tile),
        BATCH,
    ),
    "wrong are exactly those that visit one of its experts\n": (
        judge_tokens.bad_neighbour,
        spoiling(of_its_experts),
        BATCH,
    ),
    "wrong are exactly all others": (
        judge_tokens.bad_neighbour,
        spoiling(of_all),
        BATCH,
    ),
}


@pytest.mark.parametrize("words", CAUSES)
def test_what_is_wrong_with_a_later_call_is_named(
    words: str, settings: Settings
) -> None:
    assert words in text_of(*CAUSES[words], settings)


def test_noise_in_a_later_call_has_no_cause(settings: Settings) -> None:
    calls: list[int] = []

    def forward(p: Any, x: Tensor, r: Routing) -> Tensor:
        calls.append(1)
        out = PLAIN.forward(p, x, r).float()
        if len(calls) == 1:
            return out.bfloat16()
        random = torch.Generator().manual_seed(len(calls))
        noise = torch.randn(out.shape, generator=random)
        return (out + out.std() * noise).bfloat16()

    word = "e4k2h64i96/tp1r0/t5/s0"
    text = text_of(judge_state.second_call, calling(forward), word, settings)
    assert "why    nothing of earlier calls, and no known hypothesis" in text


def test_bits_that_differ_are_counted_and_not_explained(settings: Settings) -> None:
    fault = claims.rarely_nondeterministic.plant()
    text = text_of(judge_state.deterministic, fault, SMALL, settings)
    assert "other bits: 1 of 32 elements, by at most 1 units in the last place" in text
    assert "why" not in text


def test_tokens_that_have_nothing_in_common_are_only_listed() -> None:
    ids = torch.randint(0, 64, (33, 2), generator=torch.Generator().manual_seed(0))
    wrong = torch.zeros(33, dtype=torch.bool)
    wrong[[1, 5, 6, 30]] = True
    assert spoiled_by(16, wrong, ids) == "tokens 1, 5..6, 30"


@pytest.mark.parametrize(
    "check",
    [
        judge_state.second_call,
        judge_state.poisoned,
        judge_state.batch_invariant,
        judge_tokens.every_token_count,
        judge_tokens.bad_neighbour,
    ],
)
def test_a_correct_candidate_has_nothing_to_explain(
    check: Check, settings: Settings
) -> None:
    candidate = changed(claiming(PLAIN, deterministic=True))
    assert text_of(check, candidate, "e4k2h64i96/tp1r0/t17/s0", settings) == ""
