"""Checkpoint bytes -> what the kernels of this folder read: layout ``triton_moe.v1``.

    gate_up_weights  uint8    [e, 2P/64, up(h, 64)/64, 2048]
    gate_up_scales   uint8    [e, 2P/64, up(h, 64)/64, 128]
    gate_up_bias     float32  [e, 2P]
    down_weights     uint8    [e, up(h, 64)/64, up(P, 64)/64, 2048]
    down_scales      uint8    [e, up(h, 64)/64, up(P, 64)/64, 128]
    down_bias        float32  [e, up(h, 64)]
    wide_scales      bool     [1] on the CPU

e = experts of this rank, P = lanes of i of each rank, padding included: `geometry`.
Order within a tile: `tiles`. Bits within a word: `spread_codes`.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from functools import partial

import torch

from mxmoe.kernels.bias_share import bias_share
from mxmoe.kernels.check_input import check_device
from mxmoe.kernels.check_input import check_weights
from mxmoe.kernels.triton_moe.geometry import LARGEST_NARROW_SCALE
from mxmoe.kernels.triton_moe.geometry import Geometry
from mxmoe.kernels.triton_moe.geometry import geometry
from mxmoe.kernels.triton_moe.side_by_side import run_side_by_side
from mxmoe.kernels.triton_moe.tiles import in_row_order
from mxmoe.kernels.triton_moe.tiles import place_scales
from mxmoe.kernels.triton_moe.tiles import place_weights
from mxmoe.kernels.triton_moe.tiles import row_shares
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Shard

# `place_weights` allocates 3.5 times a piece: less than a tenth of the layer.
_PIECES = 40
# No larger, so that on the CPU a piece and what is made of it stay in the cache; a GPU
# is busy with each operation for longer than it takes to start it.
_LARGEST_PIECE = {"cpu": 2**21, "cuda": 2**26}


@torch.no_grad()
def prepare(
    weights: ExpertWeights,
    config: MoEConfig,
    shard: Shard,
    device: torch.device | str,
) -> dict[str, torch.Tensor]:
    """One rank's tensors on `device`, padded with 0x00; `wide_scales` on the CPU.

    weights : the whole layer, on a CPU or CUDA device, in any memory; not modified.
    Ranks cut lanes of i in blocks of 32 whatever ``shard.alignment`` says; a rank
    without lanes gets padding alone. The biases are absent if the configuration has
    none; down_bias is divided by the number of ranks.

    `wide_scales` : whether a block scale of this rank is above 128 (biased exponent),
    so that the kernels need a second factor.

    Beyond input and result at most a tenth of the result is allocated, or 3.5 times 64
    rows of one matrix where that is more.

    `BadInput`, before anything happens: weights that are prepared already or are not
    what `config` says, mixed devices, a device that is not there.
    """
    sizes = geometry(config, shard)
    weights = check_weights(weights, config)
    device = check_device(device)
    prepared = {
        name: torch.zeros(shape, dtype=dtype, device=device)
        for name, (shape, dtype) in sizes.outputs().items()
    }
    _fill(prepared, weights, sizes)
    return prepared | {"wide_scales": _wide_scales(prepared)}


def _fill(
    prepared: Mapping[str, torch.Tensor], weights: ExpertWeights, sizes: Geometry
) -> None:
    e = slice(sizes.experts.start, sizes.experts.stop)
    rows, groups = sizes.gate_up_rows, sizes.down_groups
    homes = weights.gate_up_blocks.device, prepared["gate_up_weights"].device
    workers, piece = _cut(prepared, homes)
    moves: tuple[tuple[str, torch.Tensor, Callable[..., None], bool], ...] = (
        ("gate_up_weights", weights.gate_up_blocks[e, rows], place_weights, True),
        ("down_weights", weights.down_blocks[e, :, groups], place_weights, False),
        ("gate_up_scales", weights.gate_up_scales[e, rows], place_scales, True),
        ("down_scales", weights.down_scales[e, :, groups], place_scales, False),
    )
    jobs = [
        partial(place, to, of, gated=gated, piece_bytes=piece)
        for name, source, place, gated in moves
        for to, of in row_shares(prepared[name], source, workers)
    ]
    run_side_by_side(jobs, workers)
    if weights.gate_up_bias is not None and weights.down_bias is not None:
        gate_up = in_row_order(weights.gate_up_bias[e, rows], gated=True).flatten(1)
        prepared["gate_up_bias"][:, : gate_up.shape[1]] = gate_up
        down = bias_share(weights.down_bias[e].to(homes[1]), sizes.tp_size)
        prepared["down_bias"][:, : down.shape[1]] = down


def _cut(
    prepared: Mapping[str, torch.Tensor], homes: tuple[torch.device, torch.device]
) -> tuple[int, int]:
    """How many workers, and how many bytes each takes at a time.

    homes : of the source and of the prepared tensors. Work for a GPU is given to it by
    the caller's thread, in the stream that the caller has chosen.
    """
    scratch = sum(tensor.nbytes for tensor in prepared.values()) // _PIECES
    matrices = (prepared["gate_up_weights"], prepared["down_weights"])
    tile_row = max(m.shape[2] * m.shape[3] for m in matrices)
    kind = "cpu" if all(home.type == "cpu" for home in homes) else "cuda"
    most = torch.get_num_threads() if kind == "cpu" else 1
    workers = max(1, min(most, scratch // tile_row))
    return workers, min(scratch // workers, _LARGEST_PIECE[kind])


def _wide_scales(prepared: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """bool [1] on the CPU; the scales of the padding are 0."""
    scales = (prepared["gate_up_scales"], prepared["down_scales"])
    return torch.tensor([max(int(s.max()) for s in scales) > LARGEST_NARROW_SCALE])
