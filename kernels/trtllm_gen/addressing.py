"""Where the trtllm-gen kernel finds each row and each block scale.

A *physical* row n is row n of a prepared tensor, and the row of the GEMM's
accumulator that it makes. The epilogue reads accumulator rows in another order than
memory holds them: within each block of B rows (32 for an epilogue tile of a multiple
of 128 rows, else 16)

    physical row  B b + 8 q + s   holds   B b + (B / 8) s + q     s = 0..7

For fc2 that is the hidden index h. For fc1 it is 2 i + half, with half 0 = up
(linear) and 1 = gate: up and gate of a lane end up side by side.

Block scales lie in tiles of 128 rows x 4 columns, 512 bytes each.

Source: NVIDIA/TensorRT-LLM 002366a4, ``quantization/utils/fp4_utils.py`` (row maps)
and ``cpp/tensorrt_llm/thop/fp4Op.cpp`` (``computeSFIndex``); the closed forms were
checked against those functions.
"""

from __future__ import annotations

from functools import lru_cache

import torch

UP, GATE = 0, 1

# `epilogue_tile_m` that TensorRT-LLM's loader passes for these kernels.
EPILOGUE_TILE = 128

# `input_hidden_alignment` (fc1's K axis) and `weight_alignment` (everything else) of
# MXFP4WeightTRTLLMGenFusedMoEMethod in ``fused_moe/quantization.py``.
FC1_HIDDEN_ALIGNMENT = 512
WEIGHT_ALIGNMENT = 128

_LANES = 8
_TILE_ROWS, _TILE_COLUMNS = 128, 4
_TILE_BYTES = _TILE_ROWS * _TILE_COLUMNS
_SWIZZLE_ROWS = 32


def physical_rows(rows: int, epilogue_tile: int = EPILOGUE_TILE) -> torch.Tensor:
    """int64 [rows]: the physical row that holds each logical row.

    A logical row is h in fc2 and 2 i + half in fc1.
    """
    block = 32 if epilogue_tile % 128 == 0 else 16
    logical = torch.arange(rows)
    within = logical % block
    s, q = within // (block // _LANES), within % (block // _LANES)
    return logical - within + _LANES * q + s


def rows_of_half(
    half: int, lanes: int, intermediate: int, epilogue_tile: int = EPILOGUE_TILE
) -> torch.Tensor:
    """int64 [lanes]: the physical fc1 rows of one half's first lanes.

    intermediate : P, the padded lanes that the rank was given; fc1 has 2P rows.
    """
    return physical_rows(2 * intermediate, epilogue_tile)[half : 2 * lanes : 2]


def scale_offsets(rows: int, columns: int) -> torch.Tensor:
    """int64 [rows, columns]: the byte of each block scale in the 128x4 tiles.

    rows % 128 == 0 and columns % 4 == 0, as the op requires.
    """
    r = torch.arange(rows)[:, None]
    c = torch.arange(columns)
    tile = (r // _TILE_ROWS) * (columns // _TILE_COLUMNS) + c // _TILE_COLUMNS
    row_in_tile = (r % _SWIZZLE_ROWS) * 16 + (r % _TILE_ROWS) // _SWIZZLE_ROWS * 4
    return tile * _TILE_BYTES + row_in_tile + c % _TILE_COLUMNS


# Small next to the weights, and the same for every layer and call.
@lru_cache(maxsize=32)
def scale_offsets_on(rows: int, columns: int, device: torch.device) -> torch.Tensor:
    """`scale_offsets`, kept on `device`."""
    return scale_offsets(rows, columns).to(device)


@lru_cache(maxsize=32)
def epilogue_rows_on(
    lanes: int,
    intermediate: int,
    hidden: int,
    padded_hidden: int,
    epilogue_tile: int,
    device: torch.device,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(gate rows [lanes], up rows [lanes], fc2 rows [hidden]) on `device`."""
    found = (
        rows_of_half(GATE, lanes, intermediate, epilogue_tile),
        rows_of_half(UP, lanes, intermediate, epilogue_tile),
        physical_rows(padded_hidden, epilogue_tile)[:hidden],
    )
    gate, up, down = (rows.to(device) for rows in found)
    return gate, up, down
