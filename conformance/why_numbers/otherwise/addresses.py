"""Codes and scales read at other addresses: strides of rows and experts, overflows.

A block of 32 codes and its scale stand at

    e * (rows * blocks) + n * blocks + k

for expert e of the rank, row n and K block k of a matrix. A kernel that takes one of
these numbers from elsewhere, or keeps an offset in too few bits, reads other blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import replace
from functools import cached_property
from functools import partial

import torch

from mxmoe.conformance.why_numbers.expert_content import Content
from mxmoe.conformance.why_numbers.expert_content import Experts
from mxmoe.conformance.why_numbers.expert_content import Otherwise
from mxmoe.reference.formats import decode
from mxmoe.reference.formats import unpack_nibbles
from mxmoe.reference.types import BLOCK_BYTES
from mxmoe.reference.types import ExpertWeights

Tensor = torch.Tensor

# Bits of an offset in bytes: of integers, and of shared memory that is used as a ring.
_BITS = (8, 10, 12, 14, 15, 16, 17, 18, 19, 20, 24)
_ONE = 127
_CODES_OF_1 = 0x22


@dataclass(frozen=True, kw_only=True)
class _Tensor:
    """Codes or scales of one matrix of a rank: blocks [e, rows, k] as they stand."""

    part: ExpertWeights
    matrix: str
    kind: str

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """(experts, rows, K blocks)."""
        experts, rows, blocks = getattr(self.part, f"{self.matrix}_scales").shape
        return experts, rows, blocks

    @cached_property
    def _flat(self) -> tuple[Tensor, ...]:
        """Elements [n, 32] and codes [n, 32], or scales [n], of all blocks."""
        if self.kind == "scales":
            scales = getattr(self.part, f"{self.matrix}_scales").reshape(-1, 1)
            ones = scales.new_full((len(scales), 1, BLOCK_BYTES), _CODES_OF_1)
            return (decode(ones, scales)[:, 0],)
        codes = getattr(self.part, f"{self.matrix}_blocks").reshape(-1, 1, BLOCK_BYTES)
        ones = codes.new_full((len(codes), 1), _ONE)
        return decode(codes, ones), unpack_nibbles(codes[:, 0]).long()

    def read(self, experts: Experts, local: int, *, at: Tensor) -> Content:
        """Block (n, k) of an expert is block `at[local, n, k]` of all, modulo all."""
        content, flat = experts.content(local), self._flat
        own, index = getattr(content, self.matrix), at[local] % len(flat[0])
        if self.kind == "scales":
            read = replace(own, scales=flat[0][index])
        else:
            codes = flat[1][index].reshape(own.codes.shape)
            read = replace(own, elements=flat[0][index], codes=codes)
        return replace(content, **{self.matrix: read})


def addresses_otherwise(part: ExpertWeights) -> Iterator[Otherwise]:
    """Every wrong stride and overflow, of codes and scales of both matrices."""
    for matrix, other in (("gate_up", "down"), ("down", "gate_up")):
        beside = getattr(part, f"{other}_scales").shape
        for kind in ("scales", "codes"):
            tensor = _Tensor(part=part, matrix=matrix, kind=kind)
            for words, at in (
                *_row_strides(tensor.shape, beside[2], other),
                *_expert_strides(tensor.shape, beside[1], other),
                *_overflows(tensor.shape, 1 if kind == "scales" else BLOCK_BYTES),
            ):
                name = f"{kind} of {matrix} {words}"
                yield Otherwise(name=name, edit=partial(tensor.read, at=at))


Shape = tuple[int, int, int]
Places = Iterator[tuple[str, Tensor]]


def _row_strides(shape: Shape, beside: int, other: str) -> Places:
    experts, rows, blocks = shape
    padded = (-(-blocks // unit) * unit for unit in (2, 4, 8))
    strides = (beside, *padded, blocks - 1, blocks + 1, 2 * blocks, blocks // 2)
    n, k = torch.arange(rows)[:, None], torch.arange(blocks)
    first = torch.arange(experts)[:, None, None] * rows * blocks
    for stride in dict.fromkeys(strides):
        if stride in (0, blocks):
            continue
        whose = f", as those of {other}" if stride == beside else ""
        words = f"read as if rows had {stride} K blocks, not {blocks}{whose}"
        yield words, first + (n * stride + k)
        yield words, first + (n * stride + k) % (rows * blocks)


def _expert_strides(shape: Shape, beside: int, other: str) -> Places:
    experts, rows, blocks = shape
    inside = torch.arange(rows * blocks).reshape(rows, blocks)
    e = torch.arange(experts)[:, None, None]
    for stride in dict.fromkeys((beside, rows // 2, 2 * rows)):
        if stride == rows or experts == 1:
            continue
        whose = f", as those of {other}" if stride == beside else ""
        words = f"of expert e read from row {stride} * e on, not {rows} * e{whose}"
        yield words, e * stride * blocks + inside


def _overflows(shape: Shape, bytes_of_block: int) -> Places:
    experts, rows, blocks = shape
    inside = torch.arange(rows * blocks).reshape(rows, blocks)
    first = torch.arange(experts)[:, None, None] * rows * blocks
    for bits in _BITS:
        most = 2**bits // bytes_of_block
        if 0 < most < experts * rows * blocks:
            words = f"at offsets that wrap at 2^{bits} bytes"
            yield f"read {words}", (first + inside) % most
            yield f"of each expert read {words}", first % most + inside
