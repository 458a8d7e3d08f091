"""The steps that layouts are made of: named, invertible, on rows and K columns.

A step moves whole entries of one expert's tensor [rows, columns, ...]; it looks at
no value. It is applied to *index* tensors, so that a chain of steps gives an
`IndexMap`. ``undo`` is the inverse; where ``apply`` cut something off, ``undo``
puts `PADDING` there.

The steps are those of TensorRT-LLM's MXFP4 loader (see `trtllm_gen`); the golden
vectors under ``conformance/golden`` test them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from mxmoe.reference.layouts.index_map import PADDING

# 128 rows x 4 columns of scales make one tile of 512 bytes: rows r, r+32, r+64, r+96
# stand side by side in 16 bytes (NVIDIA's block-scaling layout for tcgen05.mma).
SWIZZLE_ROWS, SWIZZLE_COLUMNS = 128, 4
_SWIZZLE_LANES = 32

Move = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Step:
    """`apply` and its inverse `undo`; equal names mean equal steps."""

    name: str
    apply: Move
    undo: Move

    def __repr__(self) -> str:
        return self.name


def flatten_blocks() -> Step:
    """[rows, g, 1] -> [rows, g]: one column for each block of 32 elements."""
    return Step("flatten blocks", lambda x: x.flatten(1), lambda x: x.unsqueeze(2))


def deinterleave() -> Step:
    """[2i, ...] with rows gate, up, gate, up -> [2, i, ...], all gates then all ups."""
    return Step(
        "de-interleave",
        lambda x: x.unflatten(0, (-1, 2)).transpose(0, 1),
        lambda x: x.transpose(0, 1).flatten(0, 1),
    )


def pad(what: str, axis: int, size: int, to: int) -> Step:
    """Lengthen `axis` from `size` to `to` with padding at its end."""
    return Step(
        f"pad {what}",
        partial(_lengthen, axis=axis, before=0, after=to - size),
        lambda x: x.narrow(axis, 0, size),
    )


def cut(what: str, axis: int, size: int, start: int, stop: int) -> Step:
    """Keep `start` to `stop` of the `size` entries of `axis`."""
    return Step(
        f"slice {what}",
        lambda x: x.narrow(axis, start, stop - start),
        partial(_lengthen, axis=axis, before=start, after=size - stop),
    )


def stack_up_gate() -> Step:
    """[2, P, ...] gates, ups -> [2P, ...] with the ups first: the kernel's x0, x1."""
    return Step(
        "stack up, gate",
        lambda x: x.flip(0).flatten(0, 1),
        lambda x: x.unflatten(0, (2, -1)).flip(0),
    )


def gated_interleave() -> Step:
    """[2P, ...]: out[2m] <- in[m], out[2m + 1] <- in[P + m]."""
    return Step(
        "gated interleave",
        lambda x: x.unflatten(0, (2, -1)).transpose(0, 1).flatten(0, 1),
        lambda x: x.unflatten(0, (-1, 2)).transpose(0, 1).flatten(0, 1),
    )


def row_shuffle(block: int) -> Step:
    """Within each `block` rows: out[8q + s] <- in[(block/8) s + q].

    The order in which an epilogue tile of the kernel writes its rows: blocks of 32
    if the tile is a multiple of 128 rows, else of 16.
    """
    lanes = block // 8
    return Step(
        f"row shuffle {block}",
        lambda x: x.unflatten(0, (-1, 8, lanes)).transpose(1, 2).flatten(0, 2),
        lambda x: x.unflatten(0, (-1, lanes, 8)).transpose(1, 2).flatten(0, 2),
    )


def shuffle_block(epilogue_tile: int) -> int:
    """Rows that one shuffle permutes, for an epilogue tile of that many rows."""
    return 32 if epilogue_tile % 128 == 0 else 16


def scale_swizzle() -> Step:
    """[R, C] row-major -> the same shape, bytes in tiles of 128 rows x 4 columns.

    off(r, c) = (r div 128) 128 C + (c div 4) 512 + (r mod 32) 16
                + ((r mod 128) div 32) 4 + c mod 4;  R % 128 == 0, C % 4 == 0.
    """
    return Step("scale swizzle 128x4", _swizzle, _unswizzle)


def inverse_order(order: tuple[int, ...]) -> list[int]:
    """The axes that bring back those of a `permute` by `order`."""
    return sorted(range(len(order)), key=order.__getitem__)


def _swizzle(x: torch.Tensor) -> torch.Tensor:
    tiles = x.unflatten(1, (-1, SWIZZLE_COLUMNS)).unflatten(0, (-1, 4, _SWIZZLE_LANES))
    return tiles.transpose(1, 3).reshape(x.shape)


def _unswizzle(x: torch.Tensor) -> torch.Tensor:
    rows, columns = x.shape
    shape = (
        rows // SWIZZLE_ROWS,
        columns // SWIZZLE_COLUMNS,
        _SWIZZLE_LANES,
        4,
        SWIZZLE_COLUMNS,
    )
    return x.reshape(shape).transpose(1, 3).reshape(x.shape)


def _lengthen(x: torch.Tensor, *, axis: int, before: int, after: int) -> torch.Tensor:
    # `pad` counts the axes from the last.
    widths = (0, 0) * (x.ndim - 1 - axis) + (before, after)
    return torch.nn.functional.pad(x, widths, value=PADDING)
