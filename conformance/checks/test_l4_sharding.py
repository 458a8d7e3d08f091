"""L4: the ranks of a group, one after another in this process, make the whole layer."""

from __future__ import annotations

import pytest

from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.rank_groups import GROUPS
from mxmoe.conformance.cases.strategies import SILU_SHAPE
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.judging.laws import judge_ranks_add_up
from mxmoe.conformance.judging.partition import judge_partition
from mxmoe.conformance.judging.ranks import judge_all_reduce
from mxmoe.conformance.judging.ranks import judge_each_rank
from mxmoe.conformance.judging.ranks import judge_sum
from mxmoe.conformance.judging.ranks import need_shards
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Shard

pytestmark = [pytest.mark.sharding, pytest.mark.level("L4")]

TENSOR_PARALLEL = tuple(group for group in GROUPS if group.ep_size == 1)
EXPERT_PARALLEL = tuple(group for group in GROUPS if group.ep_size > 1)
TOKENS = (1, 2, 5, 17, 33)

# Three blocks of 32 lanes: at tp 8 five ranks own none, at alignment 128 seven.
FEW_LANES = MoEConfig(hidden=160, intermediate=96, experts=4, top_k=2)
# As many lanes as gpt-oss, which 8 ranks share unequally; few rows keep it quick.
GPT_OSS_LANES = MoEConfig(hidden=96, intermediate=2880, experts=4, top_k=2)
EXAMPLES = (
    Case(config=FEW_LANES, shard=Shard(tp_size=8), tokens=17, hot=("no_expert",)),
    Case(config=SILU_SHAPE, shard=Shard(tp_size=4, ep_size=2), tokens=17),
)


def test_tensor_parallel_ranks_sum_to_the_whole(judge: Judge) -> None:
    """Every rank's lanes of i, added up; the down bias once."""
    need_shards(judge, "forward")
    judge.for_all(
        judge_sum,
        hot=("no_expert", "strided", "saturated", "zero_scale"),
        tokens=TOKENS,
        examples=(
            *EXAMPLES[:1],
            Case(config=GPT_OSS_LANES, shard=Shard(tp_size=8), tokens=5),
            Case(layer=0, shard=Shard(tp_size=4), tokens=9),
        ),
        groups=TENSOR_PARALLEL,
    )


def test_expert_parallel_ranks_sum_to_the_whole(judge: Judge) -> None:
    """Every rank's experts, added up, with and without tensor parallelism."""
    need_shards(judge, "forward")
    judge.for_all(
        judge_sum,
        hot=("no_expert", "silent_expert"),
        tokens=TOKENS,
        examples=EXAMPLES[1:],
        share=0.5,
        groups=EXPERT_PARALLEL,
    )


def test_ranks_add_up_to_the_candidates_own_whole(judge: Judge) -> None:
    """A law without an oracle: one rank alone gives what the ranks of a group give."""
    need_shards(judge, "forward")
    judge.for_all(
        judge_ranks_add_up,
        hot=("no_expert", "strided"),
        tokens=TOKENS,
        examples=EXAMPLES,
        share=0.25,
        draws=0.25,
        groups=GROUPS,
    )


def test_each_rank_adds_only_what_it_owns(judge: Judge) -> None:
    """Not a neighbour's expert, and a rank without lanes its share of the bias."""
    need_shards(judge, "forward")
    judge.for_all(
        judge_each_rank,
        hot=("no_expert", "silent_expert"),
        tokens=TOKENS,
        examples=EXAMPLES,
        share=0.5,
        groups=GROUPS,
    )


def test_prepared_bytes_of_all_ranks_are_the_checkpoints(judge: Judge) -> None:
    """Partition and re-assembly: each entry on its rank, all else padding."""
    need_shards(judge, "prepare")
    judge.for_all(
        judge_partition,
        tokens=(1,),
        examples=(
            *EXAMPLES,
            *(Case(layer=0, shard=group, tokens=1) for group in GROUPS[:3]),
        ),
        share=0.5,
        groups=GROUPS,
    )


def test_all_reduce_gives_the_sum_of_the_ranks(judge: Judge) -> None:
    """The candidate's own collective on the outputs of its ranks."""
    need_shards(judge, "forward", "all_reduce")
    judge.for_all(
        judge_all_reduce,
        tokens=TOKENS,
        examples=EXAMPLES,
        share=0.25,
        groups=GROUPS,
    )
