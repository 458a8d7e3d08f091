"""One prepared tensor against its index map, as a check of the suite."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.judging.expected_tensor import expected_tensors
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.verdict import Failure
from mxmoe.conformance.verdict import Verdict
from mxmoe.conformance.why_bytes.describe import difference_lines
from mxmoe.conformance.why_bytes.describe import kind_line
from mxmoe.conformance.why_bytes.describe import missing_line
from mxmoe.conformance.why_bytes.describe import prepared_tensors
from mxmoe.conformance.why_bytes.describe import why_lines
from mxmoe.reference.layouts import Layout
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig


def judge_tensors(judge: Judge, layout: Layout, case: Case) -> None:
    """Raise `Failure` unless every prepared tensor of `case` has the expected bytes."""
    config, _ = judge.raw_bytes(case)
    for name in layout.names(config):
        judge_tensor(judge, layout, case, name, repeat=case)


def judge_tensor(
    judge: Judge, layout: Layout, case: Case, name: str, *, repeat: Case | None = None
) -> None:
    """Raise `Failure` unless the prepared tensor `name` has the expected bytes.

    repeat : what ``--case`` must be given to see the failure again.
    """
    config, weights = judge.raw_bytes(case)
    shard = case.shard
    judge.subject.require(config, shard)
    layer = "" if case.layer is None else f"layer {case.layer} · "
    what = f"{name} · {layer}{config.label()} · {shard.label()}"
    found = _prepared(judge, case, config, weights)
    if name not in found:
        line = missing_line(name, found)
        raise judge.fail(Verdict.MISMATCH, [line], case=repeat, what=what)
    got, expert = found[name], 0
    expected = expected_tensors(layout, weights, config, shard)[name]
    wrong_kind = kind_line(got, expected.dtype, expected.shape)
    if wrong_kind is not None:
        lines = [wrong_kind]
    else:
        difference = expected.difference(got)
        if difference is None:
            return
        expert = difference.at[0]
        lines = difference_lines(name, difference, got, expected, config, shard)
    if got.dtype == expected.dtype and not judge.record.searching:
        layers = partial(_other_layers, judge, case)
        lines += why_lines(name, found, layout, weights, config, shard, expert, layers)
    wanted = layout.expected_tensor(name, weights, config, shard)
    evidence = {"found": got, "expected": wanted}
    raise judge.fail(Verdict.MISMATCH, lines, case=repeat, what=what, tensors=evidence)


def _other_layers(judge: Judge, case: Case) -> Iterator[tuple[str, ExpertWeights]]:
    """Those that the run has prepared as well."""
    for layer in judge.settings.layers if case.layer is not None else ():
        if layer != case.layer:
            yield f"layer {layer}", judge.layer_weights(layer)[1]


def _prepared(
    judge: Judge, case: Case, config: MoEConfig, weights: ExpertWeights
) -> dict[str, torch.Tensor]:
    """Prepared once for all tensors of a case; only the last is kept."""
    key = (judge.subject.name, str(case))
    kept = judge.settings.last_prepared
    if key not in kept:
        kept.clear()
        try:
            prepared = judge.subject.prepare(weights, config, case.shard)
        except Failure as error:
            raise judge.fail(error.verdict, [error.text], what="prepare") from error
        kept[key] = prepared_tensors(prepared)
    return kept[key]
