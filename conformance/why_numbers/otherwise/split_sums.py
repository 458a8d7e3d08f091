"""Sums over K in parts: what is rounded before the parts are added, or as they are.

A split of K gives each part to another block of threads, which stores its sum; where it
is stored in bfloat16, each part is rounded. A running sum that is kept in bfloat16 is
rounded after each step. Both can be made again where the order is the usual one.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from functools import partial

import torch

from mxmoe.conformance.why_numbers.layer_steps import Steps
from mxmoe.conformance.why_numbers.layer_steps import through
from mxmoe.reference.types import BLOCK

Tensor = torch.Tensor
# Splits of K, and steps of a running sum in K blocks.
_SPLITS = (2, 3, 4, 5, 6, 7, 8, 16)
_STEPS = (1, 2, 4)
Runs = tuple[tuple[int, ...], ...]
"""The K blocks of each part."""


def sums_otherwise(blocks: Mapping[str, int]) -> Iterator[tuple[str, Steps]]:
    """(words, steps) of every such sum, in one GEMM and in both.

    blocks : how many K blocks gate_up and down have.
    """
    first, second = blocks["gate_up"], blocks["down"]
    for words, runs, one in (*_splits(), *_kept_sums()):
        parts, others = runs(first), runs(second)
        one1, one2 = partial(one, runs=parts), partial(one, runs=others)
        # Of one part the whole result is rounded once, which has a name of its own, as
        # have splits of one block each.
        if _told(words, parts):
            yield words.format("GEMM1"), Steps(product1=one1)
        if _told(words, others):
            yield words.format("GEMM2"), Steps(product2=one2)
        if _told(words, parts) or _told(words, others):
            yield words.format("both GEMMs"), Steps(product1=one1, product2=one2)


def _told(words: str, parts: Runs) -> bool:
    apart = words == _EACH or "kept" in words or any(len(part) > 1 for part in parts)
    return len(parts) > 1 and apart


_EACH = "sums of {} rounded to bfloat16 after each K block, then added"
_Sums = tuple[str, Callable[[int], Runs], Callable[..., Tensor]]


def _splits() -> Iterator[_Sums]:
    behind = "whose sums are rounded to bfloat16 before they are added"
    for count in _SPLITS:
        for words, runs in (
            ("", _runs),
            (", the first ones longer,", _longer_first),
            (", each K block to the next,", _in_turn),
        ):
            name = f"K of {{}} in {count} splits{words} {behind}"
            yield name, partial(runs, count=count), _added
    yield _EACH, _each, _added


def _kept_sums() -> Iterator[_Sums]:
    for step in _STEPS:
        words = f"sums of {{}} kept in bfloat16, rounded after each {step * BLOCK} of K"
        yield words, partial(_in_steps, step=step), _kept


def _in_steps(blocks: int, *, step: int) -> Runs:
    every = tuple(range(blocks))
    return tuple(every[n : n + step] for n in range(0, blocks, step))


def _each(blocks: int) -> Runs:
    return _in_steps(blocks, step=1)


def _runs(blocks: int, *, count: int) -> Runs:
    """Equal ones but for the last."""
    return _in_steps(blocks, step=-(-blocks // count))


def _longer_first(blocks: int, *, count: int) -> Runs:
    """Of two lengths, if that is not the same."""
    some = torch.arange(blocks).tensor_split(count)
    runs = tuple(tuple(part.tolist()) for part in some if len(part))
    return () if runs == _runs(blocks, count=count) else runs


def _in_turn(blocks: int, *, count: int) -> Runs:
    every = tuple(range(blocks))
    return tuple(every[n::count] for n in range(min(count, blocks)))


def _parts(x: Tensor, w: Tensor, runs: Runs) -> Iterator[Tensor]:
    """The sums [n, rows] over each of some K blocks."""
    if not runs:
        yield x @ w.T
    x, w = (y.unflatten(1, (-1, BLOCK)) for y in (x, w))
    for run in runs:
        yield x[:, run].flatten(1) @ w[:, run].flatten(1).T


def _added(x: Tensor, w: Tensor, *, runs: Runs) -> Tensor:
    """Each part rounded, then all added."""
    total = x.new_zeros(len(x), len(w))
    for part in _parts(x, w, runs):
        total = total + through(part, dtype=torch.bfloat16)
    return total


def _kept(x: Tensor, w: Tensor, *, runs: Runs) -> Tensor:
    """A running sum that is rounded after each part."""
    total = x.new_zeros(len(x), len(w))
    for part in _parts(x, w, runs):
        total = through(total + part, dtype=torch.bfloat16)
    return total
