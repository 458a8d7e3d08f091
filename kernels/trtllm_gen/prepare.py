"""Checkpoint bytes -> what ``bf16_mxe2m1_block_scale_moe_runner`` reads, at copy speed.

Layout ``trtllm_gen.v1``, and ``flashinfer.v1`` with hidden_alignment=(128, 128):

    fc1_weights  uint8    [e, 2P, H1/2]     swiglu_alpha  float32 [e]
    fc1_scales   uint8    [e, 2P, H1/32]    swiglu_beta   float32 [e]
    fc1_bias     float32  [e, 2P]           swiglu_limit  float32 [e]
    fc2_weights  uint8    [e, H2, P/2]
    fc2_scales   uint8    [e, H2, P/32]     e = experts of this rank
    fc2_bias     float32  [e, H2]           P, H1, H2: see `geometry`

Every byte is moved once (scales twice), as strided copies between views: no index is
kept from call to call, so none can go stale.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from collections.abc import Mapping

import torch

from mxmoe.kernels.bias_share import bias_share
from mxmoe.kernels.check_input import check_device
from mxmoe.kernels.check_input import check_weights
from mxmoe.kernels.trtllm_gen.check_input import check_outputs
from mxmoe.kernels.trtllm_gen.geometry import EPILOGUE_TILE
from mxmoe.kernels.trtllm_gen.geometry import HIDDEN_ALIGNMENT
from mxmoe.kernels.trtllm_gen.geometry import Geometry
from mxmoe.kernels.trtllm_gen.geometry import geometry
from mxmoe.kernels.trtllm_gen.mover import VIEWS
from mxmoe.kernels.trtllm_gen.mover import Mover
from mxmoe.kernels.trtllm_gen.mover import Place
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Shard

# What must be copied before it can be viewed is copied in this many pieces: the
# extra memory is an eighth of one tensor.
_PIECES = 8


@torch.no_grad()
def prepare(
    weights: ExpertWeights,
    config: MoEConfig,
    shard: Shard,
    device: torch.device | str,
    *,
    out: Mapping[str, torch.Tensor] | None = None,
    epilogue_tile: int = EPILOGUE_TILE,
    hidden_alignment: tuple[int, int] = HIDDEN_ALIGNMENT,
    mover: Mover = VIEWS,
) -> dict[str, torch.Tensor]:
    """One rank's tensors on `device`, in buffers of the caller if `out` is given.

    weights : the whole layer, on a CPU or CUDA device; not modified. Every byte of
    the result is written, padding with 0x00, whatever was in `out`. Ranks cut lanes
    of i in multiples of 128 whatever ``shard.alignment`` says; a rank without lanes
    gets padding alone. The biases are absent if the configuration has none.

    mover : what moves the bytes; `triton_mover.TRITON` is for CUDA alone.

    `BadInput`, with nothing written: weights that are prepared already or are not
    what `config` says, mixed devices, `out` of other names, shapes, dtypes, devices,
    strides or overlapping memory, options that no row map fits.
    """
    sizes = geometry(
        config, shard, epilogue_tile=epilogue_tile, hidden_alignment=hidden_alignment
    )
    weights = check_weights(weights, config)
    device = check_device(device)
    if out is None:
        buffers = {
            name: torch.empty(shape, dtype=dtype, device=device)
            for name, (shape, dtype) in sizes.outputs().items()
        }
    else:
        buffers = check_outputs(out, sizes, device, weights)
    _fill(buffers, weights, sizes, mover)
    return buffers


def _fill(
    buffers: Mapping[str, torch.Tensor],
    weights: ExpertWeights,
    sizes: Geometry,
    mover: Mover,
) -> None:
    e = slice(sizes.experts.start, sizes.experts.stop)
    rows, groups = sizes.gate_up_rows, sizes.down_groups
    moves: tuple[tuple[str, torch.Tensor, Place, bool], ...] = (
        ("fc1_weights", weights.gate_up_blocks[e, rows], mover.rows, True),
        ("fc1_scales", weights.gate_up_scales[e, rows], mover.scales, True),
        ("fc2_weights", weights.down_blocks[e, :, groups], mover.rows, False),
        ("fc2_scales", weights.down_scales[e, :, groups], mover.scales, False),
    )
    for name, source, place, gated in moves:
        destination = buffers[name]
        for chunk, part in pieces_on(source, destination.device):
            place(destination[chunk], part, block=sizes.shuffle_block, gated=gated)
    if weights.gate_up_bias is not None and weights.down_bias is not None:
        device = buffers["fc1_bias"].device
        fc1 = weights.gate_up_bias[e, rows].to(device).float()
        fc2 = bias_share(weights.down_bias[e].to(device), sizes.tp_size)
        for name, values, gated in (("fc1_bias", fc1, True), ("fc2_bias", fc2, False)):
            destination = buffers[name][..., None]
            part = values[..., None]
            mover.rows(destination, part, block=sizes.shuffle_block, gated=gated)
    activation = sizes.config.activation
    buffers["swiglu_alpha"].fill_(activation.alpha)
    buffers["swiglu_beta"].fill_(activation.beta)
    buffers["swiglu_limit"].fill_(activation.limit)


def pieces_on(
    source: torch.Tensor, device: torch.device
) -> Iterator[tuple[slice, torch.Tensor]]:
    """[e, rows, ...] as [e, rows, columns] on `device`: a view, or piece by piece."""
    experts, rows = source.shape[:2]
    columns = math.prod(source.shape[2:])
    if source.device == device and _is_flat(source):
        yield slice(0, experts), source.view(experts, rows, columns)
        return
    step = max(1, experts // _PIECES)
    for first in range(0, experts, step):
        chunk = slice(first, first + step)
        dense = source[chunk].contiguous().to(device)
        yield chunk, dense.view(len(dense), rows, columns)


def _is_flat(source: torch.Tensor) -> bool:
    """Whether the axes behind the rows follow each other without gaps."""
    return source[:1, :1].is_contiguous()
