"""A case with telling numbers of rows tells a wrong number of tiles."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.case import parse_case
from mxmoe.conformance.cases.designed import CaseData
from mxmoe.conformance.cases.designed import make_case_data
from mxmoe.conformance.faults.outside import given
from mxmoe.conformance.faults.plain import PLAIN
from mxmoe.conformance.faults.plain import changed
from mxmoe.conformance.faults.plain import subject_of
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.judging.numbers import judge_output
from mxmoe.conformance.judging.trial import repeatable_settings
from mxmoe.conformance.verdict import Failure
from mxmoe.conformance.why_numbers.row_counts import FEWEST
from mxmoe.conformance.why_numbers.row_counts import MOST
from mxmoe.conformance.why_numbers.row_counts import TOP_K
from mxmoe.conformance.why_numbers.row_counts import tokens_for
from mxmoe.conformance.why_numbers.row_counts import with_counts
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Routing
from mxmoe.reference.types import Shard

Tensor = torch.Tensor
pytestmark = pytest.mark.usefixtures("one_thread")


def counted(experts: int, owned: range) -> CaseData:
    config = MoEConfig(hidden=32, intermediate=32, experts=experts, top_k=TOP_K)
    case = Case(config=config, tokens=tokens_for(len(owned)))
    return with_counts(make_case_data(case), owned)


@pytest.mark.parametrize("ep", [1, 2, 4])
def test_every_slot_is_on_the_rank_and_no_expert_is_twice_on_a_token(ep: int) -> None:
    config = MoEConfig(hidden=32, intermediate=32, experts=MOST, top_k=TOP_K)
    owned = Shard(ep_size=ep, ep_rank=ep - 1).expert_range(config)
    ids = counted(MOST, owned).routing.ids
    assert ids.shape == (tokens_for(len(owned)), TOP_K)
    assert set(ids.unique().tolist()) == set(owned)
    assert bool((ids[:, 0] != ids[:, 1]).all())


@pytest.mark.parametrize("experts", [FEWEST, MOST])
@pytest.mark.parametrize("tile", [8, 16, 32, 64])
def test_some_experts_have_one_row_above_a_tile_and_others_have_not(
    experts: int, tile: int
) -> None:
    ids = counted(experts, range(experts)).routing.ids
    above = torch.bincount(ids.flatten().long()) % tile == 1
    assert 1 <= int(above.sum()) < experts


def losing(gone: Callable[[Tensor, int], Tensor]) -> object:
    """A kernel that leaves out rows `gone` of the c rows of an expert."""

    def edit(p: object, x: Tensor, r: Routing) -> tuple[Tensor, Routing]:
        ids = r.ids.clone()
        for expert in r.ids[r.ids >= 0].unique():
            rows = (r.ids == expert).nonzero()
            lost = rows[gone(torch.arange(len(rows)), len(rows))]
            ids[lost[:, 0], lost[:, 1]] = -1
        return x, Routing(ids, r.weights)

    return changed(given(PLAIN, edit), trace=None)


RULES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "the last row of each expert whose number of slots is a multiple of 32 plus 1, ": (
        lambda row, c: (row == c - 1) & (c > 32) & (c % 32 == 1)
    ),
    "the last row of each expert whose number of slots is a multiple of 16 plus 1, ": (
        lambda row, c: (row == c - 1) & (c > 16) & (c % 16 == 1)
    ),
    "the last tile of 16 rows of each expert whose number of slots is a multiple of": (
        lambda row, c: (row >= c - 16) & torch.tensor(c % 16 == 0)
    ),
    "the last tile of 16 rows of each expert (in case e20k2": (
        lambda row, c: row >= (c - 1) // 16 * 16
    ),
    "all behind the last full tile of each expert whose number of slots is at most 2 "
    "above a multiple of 16": (
        lambda row, c: (row >= c // 16 * 16) & torch.tensor(c % 16 <= 2)
    ),
}


@pytest.mark.parametrize("words", RULES)
@pytest.mark.parametrize("word", ["e1k1h32i32/tp1r0/t{}/s0", "e2k2h32i32/tp1r0/t{}/s0"])
def test_rows_that_a_wrong_number_of_tiles_loses_are_named_by_their_count(
    word: str, words: str
) -> None:
    tokens = 64 if words.startswith("the last tile") else 65
    case = parse_case(word.format(tokens))
    with repeatable_settings() as settings:
        judge = Judge(subject_of(losing(RULES[words])), settings, "test")
        with pytest.raises(Failure) as failure:
            judge_output(judge, case)
    (line,) = (x for x in failure.value.text.splitlines() if x.startswith("why  "))
    assert f"behaves as if: left out: {words}" in line
