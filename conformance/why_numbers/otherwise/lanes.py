"""Lanes of K that a GEMM takes in another order, leaves out, or counts twice."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from functools import partial

import torch

from mxmoe.conformance.why_numbers.layer_steps import Steps
from mxmoe.conformance.why_numbers.layer_steps import through

Tensor = torch.Tensor


def lanes_otherwise() -> Iterator[tuple[str, Steps]]:
    """(words, steps) of GEMM1's hidden states, GEMM2's intermediate, and both."""
    for name, order in _LANE_ORDERS.items():
        yield f"hidden states {name}", Steps(x=order)
        behind = partial(_behind_rounding, order=order)
        yield f"intermediate {name}", Steps(act=behind)
    for unit in (64, 128, 256):

        def whole(k: int, unit: int = unit) -> int:
            return k // unit * unit or k

        words = f"K of {{}} read in whole steps of {unit} only"
        yield words.format("GEMM1"), Steps(first=whole)
        yield words.format("GEMM2"), Steps(last=whole)
        yield words.format("both GEMMs"), Steps(first=whole, last=whole)
    for lanes in (1, 2, 4, 8, 16, 32, 64, 128):

        def short(k: int, lanes: int = lanes) -> int:
            return k - lanes if k > lanes else k

        yield f"last {lanes} lanes of the intermediate missing", Steps(last=short)
        yield f"last {lanes} columns of the hidden states missing", Steps(first=short)
    for lanes in (1, 2, 4, 8, 16, 32):
        none = partial(_without_first, count=lanes)
        behind = partial(_behind_rounding, order=none)
        yield f"first {lanes} columns of the hidden states missing", Steps(x=none)
        yield f"first {lanes} lanes of the intermediate missing", Steps(act=behind)
        both = Steps(x=none, act=behind)
        yield f"first {lanes} lanes of K missing in both GEMMs", both
    for words, twice in _twice_counted():
        behind = partial(_behind_rounding, order=twice)
        # Of one GEMM 32 lanes are a K block of its weights: a content.
        if words != "last 32 lanes of K":
            yield f"{words} of GEMM1 counted twice", Steps(x=twice)
            yield f"{words} of GEMM2 counted twice", Steps(act=behind)
        yield f"{words} of both GEMMs counted twice", Steps(x=twice, act=behind)


def _twice_counted() -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
    for lanes in (1, 2, 4, 8, 16, 32, 64, 128):
        ends = partial(_with_end_doubled, before=lanes, after=0)
        yield f"last {lanes} lanes of K", ends
    for unit in (64, 128, 256):
        words = f"lanes of K where the last step of {unit} is moved back to its end,"
        yield words, partial(_overlapping, unit=unit)


def _with_end_doubled(x: Tensor, *, before: int, after: int) -> Tensor:
    """With twice what lies from `before` to `after` lanes in front of the end.

    Twice all lanes are scales that are twice as large.
    """
    k = x.shape[-1]
    if before >= k:
        return x
    factor = torch.ones(k, dtype=x.dtype)
    factor[k - before : k - after] = 2
    return x * factor


def _overlapping(x: Tensor, *, unit: int) -> Tensor:
    """With twice what the last whole step and a last one that ends with K both read."""
    k = x.shape[-1]
    rest = k % unit
    if not rest or k < unit:
        return x
    return _with_end_doubled(x, before=unit, after=rest)


def _without_first(x: Tensor, *, count: int) -> Tensor:
    return torch.cat((torch.zeros_like(x[..., :count]), x[..., count:]), dim=-1)


def _within(size: int, order: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """`order` of each group of `size` lanes; what is left over stays."""

    def ordered(x: Tensor) -> Tensor:
        whole = x.shape[-1] // size * size
        groups = order(x[..., :whole].unflatten(-1, (-1, size))).flatten(-2)
        return torch.cat((groups, x[..., whole:]), dim=-1)

    return ordered


def _evens_first(x: Tensor) -> Tensor:
    return torch.cat((x[..., 0::2], x[..., 1::2]), dim=-1)


def _halves_alternate(x: Tensor) -> Tensor:
    return torch.stack(x.chunk(2, dim=-1), dim=-1).flatten(-2)


def _halves_swapped(x: Tensor) -> Tensor:
    return torch.cat(x.chunk(2, dim=-1)[::-1], dim=-1)


def _lane_orders() -> dict[str, Callable[[Tensor], Tensor]]:
    """Orders of K that a decoder's, a swizzle's or a transposed load's may be."""
    found = {}
    for size in (2, 4, 8, 16, 32, 64, 128):
        found[f"with the halves of each {size} lanes swapped"] = _within(
            size, _halves_swapped
        )
        if size > 2:
            words = f"with even lanes first in each {size}"
            found[words] = _within(size, _evens_first)
            words = f"with the halves of each {size} lanes interleaved"
            found[words] = _within(size, _halves_alternate)
            found[f"with each {size} lanes reversed"] = _within(
                size, lambda x: x.flip(-1)
            )
    return found


_LANE_ORDERS = _lane_orders()


def _behind_rounding(x: Tensor, *, order: Callable[[Tensor], Tensor]) -> Tensor:
    return order(through(x, dtype=torch.bfloat16))
