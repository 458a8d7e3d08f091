"""A layer that is prepared again, after others: no cache may leak between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from mxmoe.conformance.judging.compare_bytes import as_bytes
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.verdict import Verdict
from mxmoe.conformance.verdict import not_run
from mxmoe.conformance.why_bytes.describe import prepared_tensors
from mxmoe.conformance.why_bytes.describe import why_lines as bytes_why
from mxmoe.conformance.why_bytes.finished_tensor import explain_tensor
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Shard


def judge_prepare_again(judge: Judge, layer: int, shard: Shard) -> None:
    """Raise `Failure` unless A, then another shape, then A again gives equal bytes."""
    judge.subject.need("prepare")
    config, weights = judge.layer_weights(layer)
    judge.subject.require(config, shard)
    first = prepared_tensors(judge.subject.prepare(weights, config, shard))
    first = {name: tensor.clone() for name, tensor in first.items()}
    if not first:
        raise not_run("not observable: prepare returns no tensors")
    overwritten = _prepare_another_shape(judge, config)
    if overwritten:
        raise judge.fail(
            Verdict.MISMATCH, overwritten, what=f"prepare again · layer {layer}"
        )
    second = prepared_tensors(judge.subject.prepare(weights, config, shard))
    for name, tensor in first.items():
        again = second.get(name)
        if again is None or not torch.equal(as_bytes(tensor), as_bytes(again)):
            raise judge.fail(
                Verdict.MISMATCH,
                [
                    f"{name}: the second prepare of the same weights gave other bytes",
                    *_why_again(judge, layer, shard, first, second, name),
                ],
                what=f"prepare again · layer {layer} · {shard.label()}",
            )


def _why_again(
    judge: Judge,
    layer: int,
    shard: Shard,
    first: Mapping[str, torch.Tensor],
    second: Mapping[str, torch.Tensor],
    name: str,
) -> list[str]:
    """What the second prepare made of tensor `name`, and whether a third is right."""
    config, weights = judge.layer_weights(layer)
    again, layout, lines = second.get(name), judge.subject.layout, list[str]()
    if again is None:
        return [f"why    {name} is not returned again"]
    if layout is not None and name in layout.names(config) and again.dim():
        wrong = (as_bytes(again) != as_bytes(first[name])).flatten(1).any(dim=1)
        expert = int(wrong.int().argmax()) if wrong.shape == again.shape[:1] else 0
        lines = bytes_why(name, second, layout, weights, config, shard, expert)
    elif again.dim() > 1:
        edits = explain_tensor(name, again, first[name])
        lines = [f"why    {name}: {'; or '.join(edits)}"] if edits else []
    try:
        third = prepared_tensors(judge.subject.prepare(weights, config, shard))[name]
    except Exception:  # whatever this call does, it only explains
        return lines
    same = torch.equal(as_bytes(third), as_bytes(first[name]))
    kept = "of the shape before" if same else "of this layer"
    said = "right" if same else "wrong"
    return [*lines, f"prepared at once again it is {said}: something is kept {kept}"]


def _prepare_another_shape(judge: Judge, config: MoEConfig) -> list[str]:
    """Two layers of it. Returns what is wrong with a tensor of the first, or []."""
    other = judge.another_shape(config)
    if other is None:
        return []
    prepared = []
    kept: dict[str, torch.Tensor] = {}
    for seed in (0, 1):
        data = judge.data(replace(other, seed=seed))
        one = judge.subject.prepare(data.weights, data.config, other.shard)
        prepared.append(prepared_tensors(one))
        kept = kept or {n: as_bytes(t).clone() for n, t in prepared[0].items()}
    first, then = prepared
    for name, before in kept.items():
        now = as_bytes(first[name])
        if not torch.equal(before, now):
            line = f"{name}: bytes of one layer changed when the next was prepared"
            same = name in then and torch.equal(now, as_bytes(then[name]))
            held = "those of the next one: both lie in the same memory"
            return [line, f"why    they are {held if same else 'not those either'}"]
    return []
