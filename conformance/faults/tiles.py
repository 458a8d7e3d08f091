"""Faults of tiles: steps of K, tiles of columns, buffers and accumulators (L3)."""

from __future__ import annotations

from dataclasses import replace

import torch

from mxmoe.conformance.faults.fault import faults_of
from mxmoe.conformance.faults.plain import PLAIN
from mxmoe.conformance.faults.plain import Tensor
from mxmoe.conformance.faults.plain import product
from mxmoe.conformance.faults.plain import swiglu
from mxmoe.conformance.faults.tails import decoding
from mxmoe.reference.types import Activation

_output = faults_of("L3", "test_output_stays_within_the_bound")


@_output(
    "",
    "lanes of K where the last step of 64 is moved back to its end, of both GEMMs "
    "counted twice",
)
def last_step_of_k_moved_back() -> object:
    """K is read in steps of 64; a last one that would pass its end is moved back."""

    def overlapping(x: Tensor, w: Tensor) -> Tensor:
        k = x.shape[1]
        n = k // 64 * 64
        if k < 64 or n == k:
            return product(x, w)
        return product(x[:, :n], w[:, :n]) + product(x[:, -64:], w[:, -64:])

    return replace(PLAIN, product=overlapping)


@_output(
    "",
    "sums of GEMM1 begin, in each tile of 64 columns, with those of the tiles before",
)
def accumulators_kept_between_tiles_of_columns() -> object:
    """Accumulators of GEMM1 are cleared once a tile of rows, not in each of columns."""

    def add_bias(z: Tensor, bias: Tensor) -> Tensor:
        total = z.clone()
        for first in range(64, z.shape[1], 64):
            width = min(64, z.shape[1] - first)
            total[:, first : first + width] += total[:, first - 64 :][:, :width]
        return total + bias

    return replace(PLAIN, add_gate_up_bias=add_bias)


@_output(
    "",
    "gate_up bias of each tile of 96 columns begins at its first column rounded down "
    "to a multiple of 64",
)
def bias_of_aligned_tiles() -> object:
    """The bias of a tile of 96 columns is loaded from an aligned address before it."""

    def add_bias(z: Tensor, bias: Tensor) -> Tensor:
        column = torch.arange(len(bias))
        first = column // 96 * 96
        return z + bias[first // 64 * 64 + column - first]

    return replace(PLAIN, add_gate_up_bias=add_bias)


@_output("", "gate and up taken in turn, 2 columns each, not one")
def gates_and_ups_in_pairs() -> object:
    """Registers hold two gates, then two ups."""

    def pairs(z: Tensor, a: Activation) -> Tensor:
        both = z.unflatten(-1, (-1, 2, 2)).transpose(-1, -2).flatten(-3)
        return swiglu(both, a)

    return replace(PLAIN, activate=pairs)


@_output(
    "",
    "scales of gate_up and down advance by twice as many blocks as they should in each "
    "step of 64 lanes of K",
)
def scale_pointer_twice_as_fast() -> object:
    """The scales' pointer is advanced by blocks of 16, and stays within the row."""

    def edit(blocks: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
        g = torch.arange(scales.shape[-1])
        at = (g // 2 * 4 + g % 2).clamp(max=len(g) - 1)
        return blocks, scales[..., at]

    return decoding(edit)


@_output(
    "", "weights of gate_up and down in the last step of 64 lanes of K are those of the"
)
def last_weights_stale() -> object:
    """The last step of K multiplies the weights that the other buffer still holds."""

    def edit(blocks: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
        g = torch.arange(scales.shape[-1])
        last = (len(g) - 1) // 2 * 2
        at = torch.where((g >= last) & (g >= 2), g - 2, g)
        return blocks[..., at, :], scales[..., at]

    return decoding(edit)
