"""Why columns of a GEMM are wrong: a bias, a block scale, a byte, a block of 32.

For one expert with inputs X [n, K] and weights W [M, K], a wrong column c of
X W^T + b has a residual r [n] that tells what is wrong in row c of the weights:

    the bias              r is the same in every row
    scale byte of block g r = f * (the products of block g); f = 2**d - 1
    elements 2b, 2b + 1   r = two unknowns * the inputs of byte b
    block g               r = 32 unknowns * the inputs of block g

A cause is named if every row is within its bound once it is taken out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from mxmoe.evals.locate.explained import SLACK
from mxmoe.evals.locate.explained import explained
from mxmoe.reference.types import BLOCK

# More rows than unknowns by this many, so that a wrong cause does not fit by chance.
_SPARE = 3
# Columns that are looked at one by one.
_COLUMNS = 32

BIAS, SCALE, BYTE, BLOCK_OF_K = "bias", "scale", "byte", "block"


@dataclass(frozen=True, kw_only=True, eq=False)
class Product:
    """One expert's rows of a GEMM.

    inputs [n, K], weights [M, K], bias [M]; residual, allowed and bad [n, M].
    """

    inputs: torch.Tensor
    weights: torch.Tensor
    bias: torch.Tensor
    residual: torch.Tensor
    allowed: torch.Tensor
    bad: torch.Tensor

    @property
    def columns(self) -> list[int]:
        """Those with a row out of bound."""
        return self.bad.any(dim=0).nonzero()[:, 0].tolist()


@dataclass(frozen=True)
class ColumnCause:
    """What is wrong in one row of the weights.

    place : of a scale or block its g, of a byte its index in the row, of a bias 0.
    size : the bias that was added; the factor of a block; 0 otherwise.
    """

    kind: str
    place: int
    size: float

    def words(self, wanted_bias: float) -> str:
        """For a person."""
        if self.kind == BIAS:
            return f"a bias of {self.size:.6g} was added, not {wanted_bias:.6g}"
        if self.kind == BYTE:
            g, byte = divmod(self.place, BLOCK // 2)
            return (
                f"K block {g}, byte {byte} (elements {2 * self.place}, "
                f"{2 * self.place + 1}) has another value"
            )
        if self.kind == BLOCK_OF_K:
            return f"K block {self.place} has other values"
        if abs(self.size) < 2.0**-10:
            return f"K block {self.place} is left out"
        power = math.log2(abs(self.size))
        if self.size > 0 and abs(power - round(power)) < 0.01:
            high = "high" if power > 0 else "low"
            return (
                f"K block {self.place} counts {self.size:.4g} times: its scale byte "
                f"is {abs(round(power))} too {high}"
            )
        return f"K block {self.place} counts {self.size:.4g} times"


def column_cause(product: Product, column: int) -> ColumnCause | None:
    """The simplest cause that leaves every row of `column` within its bound."""
    if not product.residual[:, column].isfinite().all():
        return None
    for kind, place, basis in _bases(product, column):
        fit = _fit(product, column, basis)
        if fit is not None:
            size = 0.0
            if kind == BIAS:
                size = float(product.bias[column] + fit[0, 0])
            elif kind == SCALE:
                size = float(1 + fit[0, 0])
            return ColumnCause(kind, place, size)
    return None


def _fit(product: Product, column: int, basis: torch.Tensor) -> torch.Tensor | None:
    """The unknowns with which `basis` [n, u] leaves every row within its bound."""
    residual = product.residual[:, column]
    if len(residual) < basis.shape[1] + _SPARE:
        return None
    fit = torch.linalg.lstsq(basis, residual[:, None], driver="gelsd").solution
    left = residual - (basis @ fit)[:, 0]
    return fit if explained(residual, left, product.allowed[:, column]) else None


def _bases(product: Product, column: int) -> Iterator[tuple[str, int, torch.Tensor]]:
    x, row = product.inputs, product.weights[column]
    yield BIAS, 0, torch.ones(len(x), 1, dtype=x.dtype)
    blocks = range(x.shape[1] // BLOCK)
    products = (x * row).unflatten(1, (-1, BLOCK)).sum(dim=2)
    for g in blocks:
        yield SCALE, g, products[:, g : g + 1]
    for byte in _likely(x, product.residual[:, column]):
        yield BYTE, byte, x[:, 2 * byte : 2 * byte + 2]
    for g in blocks:
        yield BLOCK_OF_K, g, x[:, BLOCK * g : BLOCK * (g + 1)]


def _likely(x: torch.Tensor, residual: torch.Tensor) -> list[int]:
    """The bytes whose elements the residual goes with most, best first."""
    size = x.square().sum(dim=0).sqrt() * residual.norm()
    along = torch.where(size > 0, (x * residual[:, None]).sum(dim=0) / size, 0).abs()
    best = along.unflatten(0, (-1, 2)).amax(dim=1)
    return best.topk(min(8, len(best))).indices.tolist()


def added_biases(product: Product) -> torch.Tensor | None:
    """The bias [M] that was added instead, if that is all that is wrong."""
    residual = product.residual
    if len(residual) < 1 + _SPARE or not residual.isfinite().all():
        return None
    mean = residual.mean(dim=0)
    if bool(((residual - mean).abs() <= SLACK * product.allowed).all()):
        return product.bias + mean
    return None


def same_cause(product: Product, first: ColumnCause) -> tuple[int, int]:
    """(columns with a cause of the same kind and place, wrong columns looked at)."""
    columns = product.columns[:_COLUMNS]
    same = 0
    for column in columns:
        for kind, place, basis in _bases(product, column):
            if (kind, place) == (first.kind, first.place):
                same += _fit(product, column, basis) is not None
                break
    return same, len(columns)
