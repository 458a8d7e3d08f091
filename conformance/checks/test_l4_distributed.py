"""L4: ranks as real processes with a real all-reduce (gloo; NCCL on GPUs)."""

from __future__ import annotations

import pytest

from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.strategies import SILU_SHAPE
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.judging.layer_step import judge_processes
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Shard

pytestmark = [pytest.mark.distributed, pytest.mark.level("L4")]

# Seven blocks of lanes, which neither 2 nor 4 ranks share equally.
UNEQUAL = MoEConfig(hidden=160, intermediate=224, experts=4, top_k=2)
# One block of lanes: all ranks but one own none.
ONE_BLOCK = MoEConfig(hidden=96, intermediate=32, experts=4, top_k=2)

# A launch costs seconds (every rank imports torch), a case milliseconds: one launch
# for each number of ranks, with tensor and expert parallel cases in it.
CASES = {
    2: (
        Case(config=UNEQUAL, shard=Shard(tp_size=2), tokens=17),
        Case(config=ONE_BLOCK, shard=Shard(tp_size=2), tokens=5, hot=("no_expert",)),
        Case(config=UNEQUAL, shard=Shard(ep_size=2), tokens=17, seed=1),
        Case(config=SILU_SHAPE, shard=Shard(ep_size=2), tokens=5),
        Case(layer=0, shard=Shard(tp_size=2), tokens=9),
    ),
    4: (
        Case(config=UNEQUAL, shard=Shard(tp_size=4), tokens=17),
        Case(config=SILU_SHAPE, shard=Shard(tp_size=4), tokens=5),
        Case(config=UNEQUAL, shard=Shard(ep_size=4), tokens=17, seed=1),
        Case(config=UNEQUAL, shard=Shard(tp_size=2, ep_size=2), tokens=17, seed=2),
        Case(layer=0, shard=Shard(tp_size=2, ep_size=2), tokens=9),
    ),
}


@pytest.mark.parametrize("ranks", CASES)
def test_layer_step_across_processes_stays_within_the_bound(
    judge: Judge, ranks: int
) -> None:
    """residual + all_reduce(partial) on every rank, against the whole layer."""
    judge_processes(judge, ranks, CASES[ranks])
