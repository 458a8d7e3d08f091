"""L1: prepared bytes of the checkpoint, against index maps and laws."""

from __future__ import annotations

import pytest
import torch

from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.strategies import ALL_RANKS
from mxmoe.conformance.cases.strategies import MANY_EXPERTS
from mxmoe.conformance.judging.bytes import judge_tensor
from mxmoe.conformance.judging.bytes import judge_tensors
from mxmoe.conformance.judging.compare_bytes import as_bytes
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.judging.prepare_again import judge_prepare_again
from mxmoe.conformance.suite.places import for_each
from mxmoe.conformance.suite.places import gpt_oss_tensors
from mxmoe.conformance.suite.places import layer_shards
from mxmoe.conformance.suite.places import layer_tensors
from mxmoe.conformance.verdict import Verdict
from mxmoe.conformance.verdict import not_run
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Shard

pytestmark = [pytest.mark.bytewise, pytest.mark.level("L1")]

# As many experts as gpt-oss-120b has. 4128 lanes on two ranks: the smallest size at
# which the scale slicing of TensorRT-LLM's own loader was seen to go wrong.
DRAWN_EXAMPLES = (
    Case(config=MANY_EXPERTS, shard=Shard(tp_size=2, tp_rank=1), tokens=0),
    Case(config=MANY_EXPERTS, shard=Shard(ep_size=4, ep_rank=3), tokens=0),
    *(
        Case(
            config=MoEConfig(hidden=32, intermediate=4128, experts=1, top_k=1),
            shard=Shard(tp_size=2, tp_rank=rank),
            tokens=0,
        )
        for rank in (0, 1)
    ),
)
OWN_LAYOUT = "layout: the candidate's own, so no byte has a known place"


@for_each(layer_tensors)
def test_prepared_bytes_match_the_layout(
    judge: Judge, place: tuple[Case, str] | None
) -> None:
    """Every byte of one prepared tensor, on one rank, against its index map."""
    judge_place(judge, place)


@for_each(gpt_oss_tensors)
def test_gpt_oss_bytes_match_the_layout(
    judge: Judge, place: tuple[Case, str] | None
) -> None:
    """The real widths, whatever the checkpoint: 2880 is no multiple of 128."""
    judge_place(judge, place)


def judge_place(judge: Judge, place: tuple[Case, str] | None) -> None:
    judge.subject.need("prepare")
    layout = judge.subject.layout
    if place is None or layout is None:
        raise not_run(OWN_LAYOUT)
    judge_tensor(judge, layout, *place)


def test_drawn_layers_match_the_layout(judge: Judge) -> None:
    """Drawn shapes on every rank of tp 1 to 8 and 16, and of expert parallel ones."""
    judge.subject.need("prepare")
    layout = judge.subject.layout
    if layout is None:
        raise not_run(OWN_LAYOUT)
    judge.for_all(
        lambda judge, case: judge_tensors(judge, layout, case),
        tokens=(0,),
        shards=ALL_RANKS,
        examples=DRAWN_EXAMPLES,
    )


@for_each(layer_shards)
def test_preparing_again_gives_the_same_bytes(
    judge: Judge, place: tuple[int, Shard]
) -> None:
    """A, then another shape, then A again: no cache may leak between them."""
    judge_prepare_again(judge, *place)


@for_each(layer_shards)
def test_prepare_does_not_modify_the_checkpoint(
    judge: Judge, place: tuple[int, Shard]
) -> None:
    judge.subject.need("prepare")
    layer, shard = place
    config, weights = judge.layer_weights(layer)
    judge.subject.require(config, shard)
    own = weights.clone()
    judge.subject.prepare(own, config, shard)
    for name, tensor in weights.tensors().items():
        if not torch.equal(as_bytes(tensor), as_bytes(own.tensors()[name])):
            raise judge.fail(
                Verdict.MISMATCH,
                [f"prepare changed the caller's {name}"],
                what=f"prepare · layer {layer} · {shard.label()}",
            )
