"""The baseline of the benchmark: one expert at a time, the way engines load them.

For every expert and tensor: de-interleave, pad each half, cut out the rank, pad K,
concatenate up and gate, gather rows by an index, tile the scales; then stack all
experts. Every step allocates. The index is computed once for a shape and passed in,
as engines cache it. Same result as `prepare.prepare`, by other means.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.functional import pad

from mxmoe.kernels.trtllm_gen.geometry import EPILOGUE_TILE
from mxmoe.kernels.trtllm_gen.geometry import HIDDEN_ALIGNMENT
from mxmoe.kernels.trtllm_gen.geometry import Geometry
from mxmoe.kernels.trtllm_gen.geometry import geometry
from mxmoe.reference.types import BLOCK
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Shard


@torch.no_grad()
def engine_loop(
    weights: ExpertWeights,
    config: MoEConfig,
    shard: Shard,
    *,
    epilogue_tile: int = EPILOGUE_TILE,
    hidden_alignment: tuple[int, int] = HIDDEN_ALIGNMENT,
) -> dict[str, torch.Tensor]:
    """Every prepared tensor of `prepare.prepare`, freshly allocated, same device."""
    sizes = geometry(
        config, shard, epilogue_tile=epilogue_tile, hidden_alignment=hidden_alignment
    )
    device = weights.gate_up_blocks.device
    shuffle = shuffle_index(sizes.fc2_hidden, sizes.shuffle_block)
    gated = gated_index(2 * sizes.padded)[
        shuffle_index(2 * sizes.padded, sizes.shuffle_block)
    ]
    rank = _Rank(sizes, shard.tp_rank, gated.to(device), shuffle.to(device))

    def stacked(
        load: Callable[[torch.Tensor], torch.Tensor], source: torch.Tensor
    ) -> torch.Tensor:
        return torch.stack([load(source[e]) for e in sizes.experts])

    w = weights
    found = {
        "fc1_weights": stacked(rank.fc1_weights, w.gate_up_blocks),
        "fc1_scales": stacked(rank.fc1_scales, w.gate_up_scales),
        "fc2_weights": stacked(rank.fc2_weights, w.down_blocks),
        "fc2_scales": stacked(rank.fc2_scales, w.down_scales),
    }
    if w.gate_up_bias is not None and w.down_bias is not None:
        found["fc1_bias"] = stacked(rank.fc1_bias, w.gate_up_bias)
        found["fc2_bias"] = stacked(rank.fc2_bias, w.down_bias)
    a, experts = config.activation, len(sizes.experts)
    parameters = {"alpha": a.alpha, "beta": a.beta, "limit": a.limit}
    return found | {
        f"swiglu_{name}": torch.full((experts,), value, device=device)
        for name, value in parameters.items()
    }


def shuffle_index(rows: int, block: int) -> torch.Tensor:
    """Row `index[n]` of the source comes to n, by the engines' table for one block."""
    lanes = block // 8
    new_place = torch.tensor([8 * (old % lanes) + old // lanes for old in range(block)])
    old_row = torch.arange(rows)
    index = torch.empty_like(old_row)
    index[block * (old_row // block) + new_place[old_row % block]] = old_row
    return index


def gated_index(rows: int) -> torch.Tensor:
    """Row pairs (m of the first half, m of the second half)."""
    halves = torch.arange(rows).view(2, -1)
    return torch.stack((halves[0], halves[1]), dim=1).flatten()


@dataclass(frozen=True, eq=False)
class _Rank:
    """The loaders of one rank, each from one expert's tensor to one prepared tensor."""

    sizes: Geometry
    tp_rank: int
    gated: torch.Tensor
    shuffle: torch.Tensor

    def fc1_weights(self, blocks: torch.Tensor) -> torch.Tensor:
        """[2i, g, 16] -> [2P, H1/2]."""
        return self._fc1(blocks.flatten(1), self.sizes.fc1_hidden // 2)

    def fc1_scales(self, scales: torch.Tensor) -> torch.Tensor:
        """[2i, g] -> [2P, H1/32], in tiles."""
        return tile_scales(self._fc1(scales, self.sizes.fc1_hidden // BLOCK))

    def fc1_bias(self, bias: torch.Tensor) -> torch.Tensor:
        """[2i] -> float32 [2P]."""
        return self._fc1(bias.float()[:, None], 1)[:, 0]

    def fc2_weights(self, blocks: torch.Tensor) -> torch.Tensor:
        """[h, g, 16] -> [H2, P/2]."""
        return self._fc2(blocks.flatten(1), self.sizes.padded // 2)

    def fc2_scales(self, scales: torch.Tensor) -> torch.Tensor:
        """[h, g] -> [H2, P/32], in tiles."""
        return tile_scales(self._fc2(scales, self.sizes.padded // BLOCK))

    def fc2_bias(self, bias: torch.Tensor) -> torch.Tensor:
        """[h] -> float32 [H2], this rank's share."""
        share = bias.float() / torch.full((), float(self.sizes.tp_size)).to(bias.device)
        padded = pad(share, (0, self.sizes.fc2_hidden - share.shape[0]))
        return padded.index_select(0, self.shuffle)

    def _fc1(self, rows: torch.Tensor, columns: int) -> torch.Tensor:
        gate, up = rows[0::2].contiguous(), rows[1::2].contiguous()
        halves = [
            pad(half, (0, columns - half.shape[1], 0, self._missing(half.shape[0], 1)))
            .chunk(self.sizes.tp_size)[self.tp_rank]
            .contiguous()
            for half in (up, gate)
        ]
        return torch.cat(halves).index_select(0, self.gated)

    def _fc2(self, rows: torch.Tensor, columns: int) -> torch.Tensor:
        lanes_each = self.sizes.padded // columns
        wide = pad(rows, (0, self._missing(rows.shape[1], lanes_each)))
        mine = wide.chunk(self.sizes.tp_size, dim=1)[self.tp_rank].contiguous()
        tall = pad(mine, (0, 0, 0, self.sizes.fc2_hidden - mine.shape[0]))
        return tall.index_select(0, self.shuffle)

    def _missing(self, entries: int, lanes_each: int) -> int:
        """Entries of `lanes_each` lanes that all ranks together have beyond i."""
        return self.sizes.tp_size * self.sizes.padded // lanes_each - entries


def tile_scales(scales: torch.Tensor) -> torch.Tensor:
    """[R, C] -> the same shape with the bytes in tiles of 128 rows x 4 columns."""
    rows, columns = scales.shape
    tiles = scales.reshape(rows // 128, 4, 32, columns // 4, 4)
    return tiles.permute(0, 3, 2, 1, 4).contiguous().view(rows, columns)
