"""``triton_moe.v1``: what our own Triton kernels (``kernels/triton_moe``) read.

    gate_up_weights  uint8    [e, R/64, C/64, 2048]   R = 2P,         C = up(h, 64)
    gate_up_scales   uint8    [e, R/64, C/64, 128]
    gate_up_bias     float32  [e, R]
    down_weights     uint8    [e, R/64, C/64, 2048]   R = up(h, 64),  C = up(P, 64)
    down_scales      uint8    [e, R/64, C/64, 128]
    down_bias        float32  [e, R]                  divided by tp
    wide_scales      bool     [1] on the CPU: any scale of the rank above 128

P = lanes of i of each rank, padded to 32 and cut as in `triton_kernels`, so 2P is a
multiple of 64. Defined for all h and i that are multiples of 32; all padding is 0x00.

Rows of gate_up, the same for weights, scales and bias: in each 16 the gates of 8
channels, then their ups. Those of down are the checkpoint's.

Weights are in tiles of 64 rows x 64 elements of K. A lane of a warp that holds row r
and the elements 2c, 2c + 1 of each 8 in an mma fragment (PTX ISA, matrix fragments)
reads 16 bytes, which are its part of rows r and r + 8 of four steps of 16 along K. In
each word of four bytes the bits are spread as in `triton_hopper.FP4_IN_BF16`.

The codes then stand in bfloat16s 2^126 too small: code times block is that times
2^(scale - 1), a factor that is itself a bfloat16 (biased exponent scale + 126 <= 254)
as long as no scale is above 128.
"""

from __future__ import annotations

import torch

from mxmoe.reference.layouts.chain import Chain
from mxmoe.reference.layouts.derived import Derived
from mxmoe.reference.layouts.layout import Chains
from mxmoe.reference.layouts.layout import Entry
from mxmoe.reference.layouts.layout import Layout
from mxmoe.reference.layouts.steps import Step
from mxmoe.reference.layouts.steps import inverse_order
from mxmoe.reference.layouts.triton_hopper import FP4_IN_BF16
from mxmoe.reference.layouts.triton_hopper import flatten_bytes
from mxmoe.reference.layouts.triton_kernels import pad_to
from mxmoe.reference.layouts.triton_kernels import rank_part
from mxmoe.reference.types import BLOCK
from mxmoe.reference.types import BLOCK_BYTES
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Shard

TILE_ROWS = 64
# A tile is two blocks wide, so that a lane's 16 bytes are four m16k16 steps.
TILE_BLOCKS = 2
# A lane of a warp has rows r and r + 8 of an mma fragment; also the gates that stand
# before their ups, so that a lane has both of a channel.
_LANE_ROWS = 8
_LARGEST_NARROW_SCALE = 254 - 126


def gate_up_rows() -> Step:
    """[R, ...] with rows gate, up, gate, up: row 16a + 2r + u -> row 16a + 8u + r."""
    return Step(
        "8 gates, 8 ups",
        lambda x: x.unflatten(0, (-1, _LANE_ROWS, 2)).transpose(1, 2).flatten(0, 2),
        lambda x: x.unflatten(0, (-1, 2, _LANE_ROWS)).transpose(1, 2).flatten(0, 2),
    )


def weight_tiles() -> Step:
    """[R, C] bytes -> [R/64, C/32, 2048]; R % 64 == 0, C % 32 == 0.

    Row 64t + 16g + 8l + r, byte 32q + 16m + 8s + 4u + c of it
    -> tile (t, q), byte 512g + 64r + 16c + 8l + 4m + 2s + u.
    """
    order = (0, 4, 1, 3, 8, 2, 5, 6, 7)  # t q, g r c l m s u

    def undo(x: torch.Tensor) -> torch.Tensor:
        tiles = x.unflatten(2, (4, _LANE_ROWS, 4, 2, TILE_BLOCKS, 2, 2))
        return tiles.permute(inverse_order(order)).flatten(4).flatten(0, 3)

    return Step(
        "tiles of mma fragments",
        lambda x: (
            x.unflatten(1, (-1, TILE_BLOCKS, 2, 2, 4))
            .unflatten(0, (-1, 4, 2, _LANE_ROWS))  # t g l r, q m s u c
            .permute(order)
            .flatten(2)
        ),
        undo,
    )


def scale_tiles() -> Step:
    """[R, C] scales -> [R/64, C/2, 128]; R % 64 == 0, C % 2 == 0.

    Row 64t + 16g + 8l + r, block 2q + m -> tile (t, q), byte (8g + r) 4 + 2l + m.
    """
    order = (0, 4, 1, 3, 2, 5)  # t q, g r l m

    def undo(x: torch.Tensor) -> torch.Tensor:
        tiles = x.unflatten(2, (4, _LANE_ROWS, 2, TILE_BLOCKS))
        return tiles.permute(inverse_order(order)).flatten(4).flatten(0, 3)

    return Step(
        "tiles of scales",
        lambda x: (
            x.unflatten(1, (-1, TILE_BLOCKS))
            .unflatten(0, (-1, 4, 2, _LANE_ROWS))  # t g l r, q m
            .permute(order)
            .flatten(2)
        ),
        undo,
    )


def triton_moe_chains(config: MoEConfig, shard: Shard) -> Chains:
    """The six tensors and what is known of the scales."""
    p, h = shard.padded_intermediate(config), config.hidden
    rows = rank_part("rows", 0, 2 * config.intermediate, 2 * p, shard)
    blocks = rank_part("K", 1, config.intermediate // BLOCK, p // BLOCK, shard)
    gate_up, down_rows = (*rows, gate_up_rows()), pad_to("rows", 0, h, TILE_ROWS)
    down = (*blocks, down_rows)
    chains: dict[str, Entry] = {
        "gate_up_weights": _weights("gate_up_blocks", gate_up, h // BLOCK),
        "gate_up_scales": _scales("gate_up_scales", gate_up, h // BLOCK),
        "down_weights": _weights("down_blocks", down, p // BLOCK),
        "down_scales": _scales("down_scales", down, p // BLOCK),
    }
    if config.has_bias:
        chains["gate_up_bias"] = Chain(
            source="gate_up_bias", steps=gate_up, dtype=torch.float32
        )
        chains["down_bias"] = Chain(
            source="down_bias",
            steps=(down_rows,),
            dtype=torch.float32,
            divisor=shard.tp_size,
        )
    return chains | {"wide_scales": Derived(value=wide_scales)}


def wide_scales(part: ExpertWeights) -> torch.Tensor:
    """bool [1]: whether any block scale (biased exponent) is above 128."""
    scales = (part.gate_up_scales, part.down_scales)
    return torch.stack([(s > _LARGEST_NARROW_SCALE).any() for s in scales]).any()[None]


def _weights(source: str, rows: tuple[Step, ...], blocks: int) -> Chain:
    pad_k = pad_to("K", 1, BLOCK_BYTES * blocks, BLOCK_BYTES * TILE_BLOCKS)
    steps = (*rows, flatten_bytes(), pad_k, weight_tiles())
    return Chain(source=source, steps=steps, bits=FP4_IN_BF16)


def _scales(source: str, rows: tuple[Step, ...], blocks: int) -> Chain:
    steps = (*rows, pad_to("K", 1, blocks, TILE_BLOCKS), scale_tiles())
    return Chain(source=source, steps=steps)


TRITON_MOE = Layout(name="triton_moe.v1", chains=triton_moe_chains)
