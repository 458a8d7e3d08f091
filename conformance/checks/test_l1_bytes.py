"""L1: prepared bytes of the checkpoint, against index maps and laws."""

from __future__ import annotations

import pytest
import torch

from mxmoe.conformance.compare_bytes import as_bytes
from mxmoe.conformance.compare_bytes import compare_bytes
from mxmoe.conformance.compare_bytes import decoded
from mxmoe.conformance.compare_bytes import logical
from mxmoe.conformance.compare_bytes import row_provenance
from mxmoe.conformance.explain_bytes import explain_bytes
from mxmoe.conformance.judge import Judge
from mxmoe.conformance.places import for_each
from mxmoe.conformance.places import layer_shards
from mxmoe.conformance.places import layer_tensors
from mxmoe.conformance.verdict import Failure
from mxmoe.conformance.verdict import Verdict
from mxmoe.conformance.verdict import not_run
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import PreparedWeights
from mxmoe.reference.types import Shard

pytestmark = [pytest.mark.bytewise, pytest.mark.level("L1")]


def prepared_tensors(prepared: PreparedWeights) -> dict[str, torch.Tensor]:
    """The tensors among what `prepare` returned."""
    return {n: t for n, t in prepared.items() if isinstance(t, torch.Tensor)}


@for_each(layer_tensors)
def test_prepared_bytes_match_the_layout(
    judge: Judge, place: tuple[int, Shard, str] | None
) -> None:
    """Every byte of one prepared tensor, on one rank, against its index map."""
    judge.subject.need("prepare")
    layout = judge.subject.layout
    if place is None or layout is None:
        raise not_run("layout: the candidate's own, so no byte has a known place")
    layer, shard, name = place
    config, weights = judge.layer_weights(layer)
    judge.subject.require(config, shard)
    expected = layout.expected(weights, config, shard)
    try:
        found = prepared_tensors(judge.subject.prepare(weights, config, shard))
    except Failure as error:
        raise judge.fail(error.verdict, [error.text], what="prepare") from error
    what = f"{name} · layer {layer} · {config.label()} · {shard.label()}"
    if name not in found:
        names = ", ".join(sorted(found)) or "none"
        line = f"expected a tensor {name!r} from prepare, found {names}"
        raise judge.fail(Verdict.MISMATCH, [line], what=what)
    wanted, got = expected[name], found[name]
    if (got.shape, got.dtype) != (wanted.shape, wanted.dtype):
        line = (
            f"expected {wanted.dtype} {list(wanted.shape)}, "
            f"found {got.dtype} {list(got.shape)}"
        )
        raise judge.fail(Verdict.MISMATCH, [line], what=what)
    difference = compare_bytes(got, wanted)
    if difference is None:
        return
    index_map = layout.maps(config, shard)[name]
    at = ", ".join(map(str, difference.at[1:]))
    lines = [
        f"{difference.count} of {difference.total} entries differ "
        f"({100 * difference.count / difference.total:.3g} %), "
        f"first at [e={difference.at[0]}, {at}]",
        f"  belongs there: {logical(difference.at, index_map, config, shard)}",
        f"  expected {decoded(name, difference.expected)}, "
        f"found {decoded(name, difference.found)}",
    ]
    holds = row_provenance(difference.at, got.cpu(), wanted, index_map, config)
    if holds is not None:
        lines.append(f"  the row found there is {holds}")
    comparable = {n: t.cpu() for n, t in found.items() if n in expected}
    lines += explain_bytes(comparable, expected, name)
    raise judge.fail(
        Verdict.MISMATCH,
        lines,
        what=what,
        tensors={"found": got, "expected": wanted},
    )


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
    _prepare_another_shape(judge, config)
    second = prepared_tensors(judge.subject.prepare(weights, config, shard))
    for name, tensor in first.items():
        again = second.get(name)
        if again is None or not torch.equal(as_bytes(tensor), as_bytes(again)):
            raise judge.fail(
                Verdict.MISMATCH,
                [f"{name}: the second prepare of the same weights gave other bytes"],
                what=f"prepare again · layer {layer} · {shard.label()}",
            )


def _prepare_another_shape(judge: Judge, config: MoEConfig) -> None:
    other = judge.another_shape(config)
    if other is not None:
        data = judge.data(other)
        judge.subject.prepare(data.weights, data.config, other.shard)


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
