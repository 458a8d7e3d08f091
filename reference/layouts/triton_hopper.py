"""``triton_kernels_hopper.v1``: MXFP4 as triton_kernels reads it on an H100.

    gate_up_weights  uint8 [e, R/4, 4C]   R = up(2P, 64), C = up(h/2, 64)
    gate_up_scales   uint8 [e, R/32, 32C] R = up(2P, 32 * num_warps), C = up(h/32, 2)
    down_weights, down_scales             the same with h rows and P elements a row

Defined for all h and i that are multiples of 32; all padding is 0x00. num_warps is 8,
the package's default, and 4 in ``triton_kernels_hopper_warps4.v1``: the scales differ,
weights and biases do not. Biases, ranks, source: see `triton_kernels`.

Weights, first by bytes. A word of four is what one lane of a warp holds of a 16 x 16
tile for mma.m16n8k16 (PTX ISA, its matrix fragments): of rows r and r + 8 the bytes c
and c + 4. Four words are four tiles along K (16 bytes, one load); 64 bytes are the
four lanes that share a row, 128 (a cache line) two neighbouring rows.

Then by bits: within a word, `FP4_IN_BF16` spreads the eight codes so that a shift and
a mask leave each pair of them in place as exponents and mantissas of two bfloat16.
"""

from __future__ import annotations

from functools import partial

import torch

from mxmoe.reference.layouts.bit_order import BitOrder
from mxmoe.reference.layouts.chain import Chain
from mxmoe.reference.layouts.layout import Chains
from mxmoe.reference.layouts.layout import Layout
from mxmoe.reference.layouts.steps import Step
from mxmoe.reference.layouts.steps import inverse_order
from mxmoe.reference.layouts.triton_kernels import pad_to
from mxmoe.reference.layouts.triton_kernels import triton_kernels_chains
from mxmoe.reference.types import BLOCK_BYTES
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Shard

# `HopperMXValueLayoutTransformation.swizzle_data` pads both axes of the bytes to this.
WEIGHT_ALIGNMENT = 64
# `make_default_matmul_mxfp4_w_scale_layout`.
DEFAULT_NUM_WARPS = 8

# For each code of a half word, the bits of a bfloat16 where its sign, exponent (2 bits)
# and mantissa go. The first stands as bfloat16 would have it (sign 15; 8, 7 the low end
# of the exponent; 6 the top of the mantissa), the next two 3 and 6 bits lower. The
# fourth has the four bits that are left, so that three shifts bring it into place.
_CODE_PLACES = ((15, 8, 7, 6), (12, 5, 4, 3), (9, 2, 1, 0), (14, 11, 10, 13))
_HALF_WORD = 16


def _places() -> tuple[int, ...]:
    """Byte n holds code n of the low half in its low bits, of the high half above."""
    return tuple(
        place + half
        for code in _CODE_PLACES
        for half in (0, _HALF_WORD)
        for place in reversed(code)
    )


FP4_IN_BF16 = BitOrder("FP4 codes spread for bfloat16", _places())


def flatten_bytes() -> Step:
    """[rows, g, 16] -> [rows, 16g]: one column for each byte."""
    return Step(
        "flatten bytes",
        lambda x: x.flatten(1),
        lambda x: x.unflatten(1, (-1, BLOCK_BYTES)),
    )


def fragment_order() -> Step:
    """[R, C] bytes -> [R/4, 4C]; R % 16 == 0, C % 32 == 0.

    Row 16a + 8w + 2t + s, byte 32q + 8k + 4u + v of it
    -> row 4a + t, byte 128q + 64s + 16v + 4k + 2u + w.
    """
    order = (0, 2, 4, 3, 7, 5, 6, 1)  # a t, q s v k u w

    def undo(x: torch.Tensor) -> torch.Tensor:
        tiles = x.unflatten(1, (-1, 2, 4, 4, 2, 2)).unflatten(0, (-1, 4))
        return tiles.permute(inverse_order(order)).flatten(4).flatten(0, 3)

    return Step(
        "mma fragments",
        lambda x: (
            x.unflatten(1, (-1, 4, 2, 4))
            .unflatten(0, (-1, 2, 4, 2))  # a w t s, q k u v
            .permute(order)
            .flatten(2)
            .flatten(0, 1)
        ),
        undo,
    )


def scale_order(num_warps: int) -> Step:
    """[R, C] scales -> [R/32, 32C]; R % (32 * num_warps) == 0, C % 2 == 0.

    Row 32Wa + 16Wi + 16w + 8l + j, column 2q + m -> row Wa + w, column
    64q + 32i + 4j + 2m + l, with W = num_warps: a warp's scales stand together.
    """
    order = (0, 2, 5, 1, 4, 6, 3)  # a w, q i j m l

    def undo(x: torch.Tensor) -> torch.Tensor:
        tiles = x.unflatten(1, (-1, 2, 8, 2, 2)).unflatten(0, (-1, num_warps))
        return tiles.permute(inverse_order(order)).flatten(5).flatten(0, 4)

    return Step(
        f"scales of {num_warps} warps",
        lambda x: (
            x.unflatten(1, (-1, 2))
            .unflatten(0, (-1, 2, num_warps, 2, 8))  # a i w l j, q m
            .permute(order)
            .flatten(2)
            .flatten(0, 1)
        ),
        undo,
    )


def hopper_weights(
    source: str, rank: tuple[Step, ...], rows: int, blocks: int
) -> Chain:
    """The value layout: fragments by bytes, then codes by bits."""
    columns = BLOCK_BYTES * blocks
    steps = (
        *rank,
        flatten_bytes(),
        pad_to("rows", 0, rows, WEIGHT_ALIGNMENT),
        pad_to("K", 1, columns, WEIGHT_ALIGNMENT),
        fragment_order(),
    )
    return Chain(source=source, steps=steps, bits=FP4_IN_BF16)


def hopper_scales(
    source: str, rank: tuple[Step, ...], rows: int, blocks: int, *, num_warps: int
) -> Chain:
    """The scale layout for a kernel of `num_warps` warps."""
    steps = (
        *rank,
        pad_to("rows", 0, rows, 32 * num_warps),
        pad_to("K", 1, blocks, 2),
        scale_order(num_warps),
    )
    return Chain(source=source, steps=steps)


def triton_hopper_chains(config: MoEConfig, shard: Shard, *, num_warps: int) -> Chains:
    """The six tensors."""
    scales = partial(hopper_scales, num_warps=num_warps)
    return triton_kernels_chains(config, shard, weights=hopper_weights, scales=scales)


TRITON_HOPPER = Layout(
    name="triton_kernels_hopper.v1",
    chains=partial(triton_hopper_chains, num_warps=DEFAULT_NUM_WARPS),
)

TRITON_HOPPER_WARPS4 = Layout(
    name="triton_kernels_hopper_warps4.v1",
    chains=partial(triton_hopper_chains, num_warps=4),
)
"""For kernels of four warps: the scales of 128 rows stand together instead of 256."""
