"""Scales and codes that one row takes from a row beside it.

Rows of gate_up alternate gate, up. A kernel that walks a pair with one pointer, or
keeps one scale for several rows, gives a row what another of its group should have.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch

from mxmoe.conformance.why_numbers.expert_content import Matrix

Tensor = torch.Tensor
_GROUPS = (4, 8, 16, 32, 64, 128)
# Which row each row n of a pair takes; the words of gate_up, and of other matrices.
_PAIRS = (
    (
        "{} of up rows (odd ones) those of their gate row, the row before",
        "{} of odd rows those of the row before",
        lambda n: n // 2 * 2,
    ),
    (
        "{} of gate rows (even ones) those of their up row, the next row",
        "{} of even rows those of the next row",
        lambda n: n // 2 * 2 + 1,
    ),
    (
        "{} of gate and up rows exchanged",
        "{} exchanged between neighbouring rows",
        lambda n: n // 2 * 2 + 1 - n % 2,
    ),
)


def row_pairs(matrix: str) -> Iterator[tuple[str, Callable[[Matrix], Matrix]]]:
    """(words, the matrix of which some rows take what is another's)."""
    for kind in ("scales", "elements"):
        what = f"{matrix} {'scales' if kind == 'scales' else 'codes'}"
        for of_gate_up, of_other, row in _PAIRS:
            words = of_gate_up if matrix == "gate_up" else of_other
            yield words.format(what), partial(_taken, kind=kind, row=row)
    for group in _GROUPS:
        words = f"{matrix} scales of the first of each {group} rows used for all of it"
        first = partial(_first_of, group=group)
        yield words, partial(_taken, kind="scales", row=first)


def _first_of(n: Tensor, *, group: int) -> Tensor:
    return n // group * group


def _taken(m: Matrix, *, kind: str, row: Callable[[Tensor], Tensor]) -> Matrix:
    rows = row(torch.arange(len(m.bias)))
    # The last row of an odd number has no other.
    rows = rows.clamp(max=len(rows) - 1)
    return replace(m, **{kind: getattr(m, kind)[rows]})
