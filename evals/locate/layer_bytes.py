"""The prepared bytes of one layer, where the layout is known: the first to look at."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mxmoe.conformance.judging.compare_bytes import compare_bytes
from mxmoe.conformance.judging.expected_tensor import ExpectedTensor
from mxmoe.conformance.judging.expected_tensor import expected_tensors
from mxmoe.conformance.why_bytes.describe import difference_lines
from mxmoe.conformance.why_bytes.describe import kind_line
from mxmoe.conformance.why_bytes.describe import missing_line
from mxmoe.conformance.why_bytes.describe import prepared_tensors
from mxmoe.conformance.why_bytes.describe import why_lines
from mxmoe.evals.locate.checksums import checksums
from mxmoe.reference.layouts import LAYOUTS
from mxmoe.reference.layouts import PADDING
from mxmoe.reference.layouts import IndexMap
from mxmoe.reference.types import BLOCK
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import PreparedWeights


@dataclass(frozen=True, kw_only=True)
class WrongBytes:
    """One prepared tensor with other bytes than its layout says.

    experts : those of which bytes differ; () where the tensor is of another kind, or
    is not there. lines : where first, what belongs there, what stands there, why.
    matrix, row : gate_up or down, and the checkpoint's row of the first wrong entry,
    where one belongs there.
    """

    tensor: str
    experts: tuple[int, ...]
    lines: tuple[str, ...]
    matrix: str = ""
    row: int | None = None


def wrong_bytes(
    prepared: PreparedWeights, weights: ExpertWeights, config: MoEConfig
) -> tuple[WrongBytes, ...]:
    """Every tensor of `prepared` that differs; () for a layout of the candidate's own.

    weights : the layer in checkpoint order. One expert's expected bytes are in memory
    at a time.
    """
    if prepared.layout is None:
        return ()
    layout, shard = LAYOUTS[prepared.layout], prepared.shard
    found = prepared_tensors(prepared)
    wrong = []
    for name, expected in expected_tensors(layout, weights, config, shard).items():
        if name not in found:
            lines = [missing_line(name, found)]
            wrong.append(WrongBytes(tensor=name, experts=(), lines=tuple(lines)))
            continue
        got = found[name]
        kind = kind_line(got, expected.dtype, expected.shape)
        if kind is not None:
            wrong.append(WrongBytes(tensor=name, experts=(), lines=(kind,)))
            continue
        difference = expected.difference(got)
        if difference is None:
            continue
        lines = difference_lines(name, difference, got, expected, config, shard)
        experts = _experts(got, expected)
        if experts:
            lines += _permuted(got, expected, experts[0])
            lines += why_lines(
                name, found, layout, weights, config, shard, difference.at[0]
            )
        matrix, row = _row(expected, difference.at, config)
        wrong.append(
            WrongBytes(
                tensor=name,
                experts=experts,
                lines=tuple(lines),
                matrix=matrix,
                row=row,
            )
        )
    return tuple(wrong)


def _row(
    expected: ExpectedTensor, at: tuple[int, ...], config: MoEConfig
) -> tuple[str, int | None]:
    entry = expected.entry
    if not isinstance(entry, IndexMap):
        return "", None
    matrix, _, kind = entry.source.rpartition("_")
    flat = entry.source_at(at[1:])
    if flat == PADDING:
        return matrix, None
    lanes = config.hidden if matrix == "gate_up" else config.intermediate
    width = {"bias": 1, "scales": lanes // BLOCK, "blocks": lanes // 2}[kind]
    return matrix, flat // width


def _experts(got: torch.Tensor, expected: ExpectedTensor) -> tuple[int, ...]:
    if not got.dim():
        return ()
    return tuple(
        e
        for e in range(len(got))
        if compare_bytes(got[e].reshape(-1), expected.expert(e).reshape(-1)) is not None
    )


def _permuted(got: torch.Tensor, expected: ExpectedTensor, expert: int) -> list[str]:
    mine, wanted = got[expert].cpu(), expected.expert(expert)
    if not mine.dim():
        return []
    how = checksums([mine]).compare(checksums([wanted]))
    if how not in ("permuted", "rows permuted"):
        return []
    what = "rows" if how == "rows permuted" else "entries"
    return [f"  permuted: expert {expert} has the same {what} in another order"]
