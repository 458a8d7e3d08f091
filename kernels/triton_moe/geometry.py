"""How large each prepared tensor of one rank is, and which part of it holds data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import replace

import torch

from mxmoe.reference.types import BLOCK
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Shard

LAYOUT = "triton_moe.v1"

# A tile is what one warp takes in one load of 16 bytes a lane: four mma fragments of
# 16 rows below each other, four steps of 16 elements along K beside each other.
TILE_ROWS = 64
TILE_COLUMNS = 64
TILE_BLOCKS = TILE_COLUMNS // BLOCK
TILE_BYTES = TILE_ROWS * TILE_COLUMNS // 2
TILE_SCALES = TILE_ROWS * TILE_BLOCKS

# Up to this biased exponent 2^(scale - 1) is a bfloat16 (biased scale + 126 <= 254):
# what a code in bfloat16's places, 2^126 too small, is multiplied by.
LARGEST_NARROW_SCALE = 128


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Sizes of one rank; `experts` are global ids, `lanes` the lanes of i it owns.

    padded : P, lanes of i with padding.
    """

    config: MoEConfig
    tp_size: int
    experts: range
    lanes: range
    padded: int

    def outputs(self) -> Mapping[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shape and dtype of every prepared tensor, by name, in order."""
        e = len(self.experts)
        gate_up = (_up(2 * self.padded, TILE_ROWS), _up(self.config.hidden, TILE_ROWS))
        down = (_up(self.config.hidden, TILE_ROWS), _up(self.padded, TILE_ROWS))
        found: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
        for matrix, (rows, columns) in (("gate_up", gate_up), ("down", down)):
            tiles = (e, rows // TILE_ROWS, columns // TILE_COLUMNS)
            found[f"{matrix}_weights"] = ((*tiles, TILE_BYTES), torch.uint8)
            found[f"{matrix}_scales"] = ((*tiles, TILE_SCALES), torch.uint8)
            if self.config.has_bias:
                found[f"{matrix}_bias"] = ((e, rows), torch.float32)
        return found | {"wide_scales": ((1,), torch.bool)}

    @property
    def gate_up_rows(self) -> slice:
        """The rank's rows of the interleaved gate_up tensors."""
        return slice(2 * self.lanes.start, 2 * self.lanes.stop)

    @property
    def down_groups(self) -> slice:
        """The rank's blocks of 32 along the K axis of the down tensors."""
        return slice(self.lanes.start // BLOCK, self.lanes.stop // BLOCK)


def geometry(config: MoEConfig, shard: Shard) -> Geometry:
    """Sizes of `shard`, whatever its own alignment says: lanes are cut in blocks."""
    aligned = replace(shard, alignment=BLOCK)
    return Geometry(
        config=config,
        tp_size=shard.tp_size,
        experts=aligned.expert_range(config),
        lanes=aligned.intermediate_range(config),
        padded=aligned.padded_intermediate(config),
    )


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
