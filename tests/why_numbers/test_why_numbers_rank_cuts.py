"""Other cuts of a layer can be made for every rank, and a right rank has none."""

from __future__ import annotations

import pytest
import torch

from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.case import parse_case
from mxmoe.conformance.cases.designed import make_case_data
from mxmoe.conformance.why_numbers.hypotheses import fits_of_numbers
from mxmoe.conformance.why_numbers.layer_steps import situation_of
from mxmoe.conformance.why_numbers.ranks.cuts import rank_cuts
from mxmoe.reference.types import ARITHMETIC
from mxmoe.reference.types import WHOLE
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Shard

pytestmark = pytest.mark.usefixtures("one_thread")
CLASS = ARITHMETIC["w4a16_fp32acc"]
OF_TP, OF_EP = "e4k2h64i224/tp3r0/t17/s0", "e8k2h64i96/tp1r0-ep4r0/t17/s0"
OF_BOTH = "e8k2h64i160/tp2r0-ep2r0/t17/s0"

# First, middle and last ones, with few lanes and with none.
RANKS = (
    WHOLE,
    *(Shard(tp_size=2, tp_rank=r) for r in range(2)),
    Shard(tp_size=3, tp_rank=2),
    Shard(tp_size=4, tp_rank=2, alignment=128),
    *(Shard(tp_size=8, tp_rank=r) for r in (1, 7)),
    Shard(ep_size=2, ep_rank=1),
    *(Shard(ep_size=4, ep_rank=r) for r in (0, 2, 3)),
    Shard(tp_size=3, tp_rank=2, ep_size=2, ep_rank=1),
    Shard(tp_size=16, tp_rank=15, ep_size=4, ep_rank=0),
)


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("shard", RANKS, ids=Shard.label)
def test_every_cut_of_every_rank_can_be_made(shard: Shard, has_bias: bool) -> None:
    config = MoEConfig(
        hidden=32, intermediate=160, experts=4, top_k=2, has_bias=has_bias
    )
    case = Case(config=config, shard=shard, tokens=5)
    data = make_case_data(case)
    s = situation_of(case, data)
    names = [name for name, _ in rank_cuts(s)]
    assert len(set(names)) == len(names)
    assert bool(names) == (not shard.is_whole())
    for _, cut in rank_cuts(s):
        told, room = cut(s).judged(CLASS)
        assert told.shape == room.shape == data.hidden_states.shape
        assert told.isfinite().all()


@pytest.mark.parametrize("word", [OF_TP, OF_EP, OF_BOTH])
def test_a_rank_that_is_right_has_no_other_cut(word: str) -> None:
    case = parse_case(word)
    data = make_case_data(case)
    s = situation_of(case, data)
    truth, allowed = s.judged(CLASS)
    for fit in fits_of_numbers(truth, s, CLASS, (truth, allowed), rank_cuts(s)):
        # What gives the same numbers is no other cut.
        told, _ = dict(rank_cuts(s))[fit.name](s).judged(CLASS)
        assert torch.equal(told, truth)
