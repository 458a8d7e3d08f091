"""Rows of a GEMM that were computed with other weights of the same layer.

Of another expert, with or without its bias; of another row of the same expert; or with
blocks or scales in an order that the suite knows (`why_bytes.finished_tensor.EDITS`).
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Mapping

import torch

from mxmoe.conformance.why_bytes.finished_tensor import EDITS
from mxmoe.evals.locate.explained import SLACK
from mxmoe.evals.locate.product_causes import Product
from mxmoe.reference.formats import decode
from mxmoe.reference.types import BLOCK

# Rows of the weights, and rows of the inputs, that a guess is tried on.
_COLUMNS, _ROWS = 32, 64
_KINDS = (
    ("bias",),
    ("blocks",),
    ("scales",),
    ("blocks", "scales"),
    ("blocks", "scales", "bias"),
)


def other_rows(
    product: Product,
    found: torch.Tensor,
    tensors: Mapping[str, torch.Tensor],
    matrix: str,
    expert: int,
) -> str | None:
    """One phrase, or None. found : [n, M], what `product` should have given.

    tensors : of `ExpertWeights`; matrix : gate_up or down.
    """
    if not found.isfinite().all() or not product.columns:
        return None
    columns = product.columns[:_COLUMNS]
    x, got = product.inputs[:_ROWS], found[:_ROWS, columns]
    near = SLACK * product.allowed[:_ROWS].amax(dim=1, keepdim=True)
    for name, w, b in other_matrices(tensors, matrix, expert, columns):
        if bool(((x @ w.T + b - got).abs() <= near).all()):
            return name
    return _row_by_row(product, got, near, columns)


def other_matrices(
    tensors: Mapping[str, torch.Tensor], matrix: str, expert: int, rows: list[int]
) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """(phrase, weights [rows, K], bias [rows]) in float64, decoded one at a time."""
    names = {kind: f"{matrix}_{kind}" for kind in ("blocks", "scales", "bias")}
    mine = {kind: tensors[n] for kind, n in names.items() if n in tensors}

    def made(of: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        bias = of["bias"][rows].double() if "bias" in of else torch.zeros(len(rows))
        return decode(of["blocks"][rows], of["scales"][rows]), bias.double()

    one = {kind: tensor[expert] for kind, tensor in mine.items()}
    for other in range(len(mine["blocks"])):
        if other == expert:
            continue
        theirs = {kind: tensor[other] for kind, tensor in mine.items()}
        for kinds in _KINDS:
            if all(kind in mine for kind in kinds):
                mixed = one | {kind: theirs[kind] for kind in kinds}
                yield f"{_named(matrix, kinds)} of expert {other}", *made(mixed)
    for kinds in _KINDS:
        for edit in EDITS:
            fits = all(k in mine and edit.fits(names[k], mine[k]) for k in kinds)
            if not fits or (edit.name == "all zero" and kinds != ("bias",)):
                continue
            edited = {kind: edit.apply(one[kind][None])[0] for kind in kinds}
            text = f"{_named(matrix, kinds)}: {edit.name}"
            if edit.name == "all zero":
                text = f"{matrix}_bias is not added"
            yield text, *made(one | edited)
    yield from _without_blocks(made(one), matrix)


def _without_blocks(
    made: tuple[torch.Tensor, torch.Tensor], matrix: str
) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    weights, bias = made
    for g in range(weights.shape[1] // BLOCK):
        cut = weights.clone()
        cut[:, BLOCK * g : BLOCK * (g + 1)] = 0
        yield f"K block {g} of {matrix} is left out in every row", cut, bias


def _named(matrix: str, kinds: tuple[str, ...]) -> str:
    return f"{matrix} {' and '.join(kinds)}"


def _row_by_row(
    product: Product, got: torch.Tensor, near: torch.Tensor, columns: list[int]
) -> str | None:
    """Whether each wrong row holds another one's product, beside its own bias."""
    products = product.inputs[:_ROWS] @ product.weights.T
    holds = {}
    for index, column in enumerate(columns):
        wanted = got[:, index, None] - product.bias[column]
        same = ((wanted - products).abs() <= near).all(dim=0).nonzero()[:, 0].tolist()
        if len(same) != 1:
            return None
        holds[column] = same[0]
    first = columns[0]
    more = f"; {len(holds)} rows are so" if len(holds) > 1 else ""
    return (
        f"row {first} is computed with the weights of row {holds[first]} and its own "
        f"bias{more}"
    )
