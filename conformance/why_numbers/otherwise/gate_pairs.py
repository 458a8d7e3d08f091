"""Columns of gate_up that are taken for others: pairs, tiles that are not cleared.

The accumulators of the first GEMM hold gates and ups in alternate columns, and a
kernel walks them in tiles. Registers that are paired otherwise, and tiles whose
accumulators or biases belong to another tile, are steps between the GEMM and the
activation.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from mxmoe.conformance.why_numbers.layer_steps import Steps
from mxmoe.conformance.why_numbers.layer_steps import gated
from mxmoe.reference.types import Activation

Tensor = torch.Tensor

_GROUPS = (2, 4, 8, 16, 32, 64, 128)
_TILES = (16, 32, 48, 64, 96, 128, 192, 256)
_ALIGNED = (32, 64, 128, 256)


def columns_otherwise() -> Iterator[tuple[str, Steps]]:
    """(words, steps)."""
    yield "gate and up taken as halves of gate_up", Steps(gated=_of_halves)
    for size in _GROUPS:
        words = f"gate and up taken in turn, {size} columns each, not one"
        yield words, Steps(gated=partial(_of_groups, size=size))
    for tile in _TILES:
        before = partial(_with_tiles_before, tile=tile)
        for words, steps in (
            ("GEMM1", Steps(z=before)),
            ("GEMM2", Steps(v=before)),
            ("both GEMMs", Steps(z=before, v=before)),
        ):
            yield (
                f"sums of {words} begin, in each tile of {tile} columns, with those of "
                "the tiles before: accumulators not cleared",
                steps,
            )
        for unit in _ALIGNED:
            if tile % unit:
                words = f"gate_up bias of each tile of {tile} columns begins at its "
                words += f"first column rounded down to a multiple of {unit}"
                rounded = partial(_with_bias_of_aligned_tiles, tile=tile, unit=unit)
                yield words, Steps(gated=rounded)


def _of_halves(z: Tensor, bias: Tensor, activation: Activation) -> Tensor:
    both = torch.stack((z + bias).chunk(2, dim=-1), dim=-1).flatten(-2)
    return gated(both, torch.zeros_like(bias), activation)


def _of_groups(z: Tensor, bias: Tensor, activation: Activation, *, size: int) -> Tensor:
    """Whole pairs of groups; the columns that are left over stay as they are."""
    columns = z + bias
    whole = columns.shape[-1] // (2 * size) * 2 * size
    pairs = columns[..., :whole].unflatten(-1, (-1, 2, size)).transpose(-1, -2)
    both = torch.cat((pairs.flatten(-3), columns[..., whole:]), dim=-1)
    return gated(both, torch.zeros_like(bias), activation)


def _with_tiles_before(x: Tensor, *, tile: int) -> Tensor:
    """Column c also holds columns c - tile, c - 2 tile, ..."""
    total = x.clone()
    for first in range(tile, x.shape[-1], tile):
        width = min(tile, x.shape[-1] - first)
        total[..., first : first + width] += total[..., first - tile :][..., :width]
    return total


def _with_bias_of_aligned_tiles(
    z: Tensor, bias: Tensor, activation: Activation, *, tile: int, unit: int
) -> Tensor:
    at = torch.arange(len(bias))
    first = at // tile * tile
    return gated(z, bias[first // unit * unit + at - first], activation)
