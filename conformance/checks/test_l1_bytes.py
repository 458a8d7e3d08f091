"""L1: prepared bytes of the checkpoint, against index maps and laws."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mxmoe.conformance.compare_bytes import as_bytes
from mxmoe.conformance.judge import Judge
from mxmoe.conformance.judge_bytes import judge_tensor
from mxmoe.conformance.judge_bytes import prepared_tensors
from mxmoe.conformance.places import for_each
from mxmoe.conformance.places import layer_shards
from mxmoe.conformance.places import layer_tensors
from mxmoe.conformance.verdict import Verdict
from mxmoe.conformance.verdict import not_run
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Shard

pytestmark = [pytest.mark.bytewise, pytest.mark.level("L1")]


@for_each(layer_tensors)
def test_prepared_bytes_match_the_layout(
    judge: Judge, place: tuple[int, Shard, str] | None
) -> None:
    """Every byte of one prepared tensor, on one rank, against its index map."""
    judge.subject.need("prepare")
    layout = judge.subject.layout
    if place is None or layout is None:
        raise not_run("layout: the candidate's own, so no byte has a known place")
    judge_tensor(judge, layout, *place)


@for_each(layer_shards)
def test_preparing_again_gives_the_same_bytes(
    judge: Judge, place: tuple[int, Shard]
) -> None:
    """A, then another shape, then A again: no cache may leak between them."""
    judge.subject.need("prepare")
    layer, shard = place
    config, weights = judge.layer_weights(layer)
    judge.subject.require(config, shard)
    first = prepared_tensors(judge.subject.prepare(weights, config, shard))
    first = {name: tensor.clone() for name, tensor in first.items()}
    if not first:
        raise not_run("not observable: prepare returns no tensors")
    overwritten = _prepare_another_shape(judge, config)
    if overwritten is not None:
        line = f"{overwritten}: bytes of one layer changed when the next was prepared"
        raise judge.fail(
            Verdict.MISMATCH, [line], what=f"prepare again · layer {layer}"
        )
    second = prepared_tensors(judge.subject.prepare(weights, config, shard))
    for name, tensor in first.items():
        again = second.get(name)
        if again is None or not torch.equal(as_bytes(tensor), as_bytes(again)):
            raise judge.fail(
                Verdict.MISMATCH,
                [f"{name}: the second prepare of the same weights gave other bytes"],
                what=f"prepare again · layer {layer} · {shard.label()}",
            )


def _prepare_another_shape(judge: Judge, config: MoEConfig) -> str | None:
    """Two layers of it. Returns the name of a tensor that the first lost, or None."""
    other = judge.another_shape(config)
    if other is None:
        return None
    kept: dict[str, torch.Tensor] = {}
    for seed in (0, 1):
        data = judge.data(replace(other, seed=seed))
        prepared = judge.subject.prepare(data.weights, data.config, other.shard)
        if not kept:
            first = prepared_tensors(prepared)
            kept = {name: as_bytes(tensor).clone() for name, tensor in first.items()}
    changed = (n for n, b in kept.items() if not torch.equal(b, as_bytes(first[n])))
    return next(changed, None)


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
