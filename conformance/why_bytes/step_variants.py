"""What a loader may do in the place of one step: another size, order or end."""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Iterator

import torch

from mxmoe.reference.layouts import PADDING
from mxmoe.reference.layouts import steps
from mxmoe.reference.layouts.steps import Move
from mxmoe.reference.layouts.steps import Step
from mxmoe.reference.types import BLOCK

TILES = ("tiles", "mma fragments", "scales of")
"""How the names of steps begin that make tiles of rows and columns."""
EIGHT_BY_EIGHT = "8 gates, 8 ups"
"""The step of `triton_moe` that sorts gates and ups."""

# Columns of scales that K may be rounded up to: a tile, and two.
_SHORTER_K = (steps.SWIZZLE_COLUMNS, 2 * steps.SWIZZLE_COLUMNS)

Rest = Callable[[torch.Tensor, torch.Size], torch.Tensor]
"""What fills tiles of fewer columns up to a tensor of this shape."""


def in_its_place(step: Step) -> Iterator[tuple[str, Move]]:
    """What else may be done where `step` belongs, and the words for it."""
    if step.name.startswith("row shuffle"):
        for block in (8, 16, 32, 64, 128, 256):
            other = _transposed_rows(block, 8)
            if f"row shuffle {block}" != step.name:
                yield f"row shuffle {block} instead of {step}", other
            words = f"rows transposed by 8 in each {block} instead of {step}"
            yield words, _transposed_rows(block, block // 8)
    if step.name == EIGHT_BY_EIGHT:
        for lanes in (1, 2, 4, 16, 32):
            words = f"{lanes} gates, {lanes} ups instead of {step}"
            yield words, _gates_then_ups(lanes)
    if step.name == steps.scale_swizzle().name:
        yield from _other_swizzles(step)
    if step.name.startswith("pad "):
        yield from _other_padding(step)
    if step.name.startswith("slice "):
        yield from _other_slices(step)
    if step.name.startswith(TILES):
        yield f"{step}: tiles by column, not by row", _tiles_by_column(step)
        yield f"{step} of tiles in reverse order", lambda x: step.apply(x).flip(0)
    if step.name.startswith("de-interleave"):
        words = "gates and ups taken as the two halves, not alternating"
        yield words, lambda x: split(x, 0, (2, -1))
    if step.name.startswith("stack"):
        words = f"rows kept alternating, not {step}"
        yield words, lambda x: x.transpose(0, 1).flatten(0, 1)


def _gates_then_ups(lanes: int) -> Move:
    return lambda x: split(x, 0, (-1, lanes, 2)).transpose(1, 2).flatten(0, 2)


def _transposed_rows(block: int, lanes: int) -> Move:
    """Rows of each `block` as [lanes, block / lanes], transposed."""

    def apply(x: torch.Tensor) -> torch.Tensor:
        rows = split(x, 0, (-1, max(lanes, 1), block // max(lanes, 1)))
        return rows.transpose(1, 2).flatten(0, 2)

    return apply


def _other_swizzles(step: Step) -> Iterator[tuple[str, Move]]:
    for columns in _SHORTER_K:
        as_if = f"as if K were padded to a multiple of {columns * BLOCK} only"
        yield (
            f"{step} {as_if}: rows of tiles begin too early",
            _of_shorter_k(step, columns, _behind_all),
        )
        yield (
            f"{step} {as_if}, more padding behind each row",
            _of_shorter_k(step, columns, _behind_each),
        )
    for rows, lanes in ((128, 32), (128, 64), (64, 16), (64, 32), (32, 8), (256, 64)):
        for columns in (2, 4, 8):
            if (rows, lanes, columns) == (128, 32, 4):
                continue
            words = f"scale swizzle {rows}x{columns} in lanes of {lanes}"
            yield f"{words} instead of {step}", _tiles(rows, lanes, columns)
    yield (
        f"{step}: tiles by column, not by row",
        lambda x: _by_column(step.apply(x), steps.SWIZZLE_ROWS, steps.SWIZZLE_COLUMNS),
    )
    yield (
        f"{step}: tiles kept, bytes inside row by row",
        _tiles(steps.SWIZZLE_ROWS, steps.SWIZZLE_ROWS, steps.SWIZZLE_COLUMNS),
    )


def _of_shorter_k(step: Step, multiple: int, rest: Rest) -> Move:
    """The tiles of as many columns as are needed, `rest` fills the tensor up."""

    def apply(x: torch.Tensor) -> torch.Tensor:
        some = (x != PADDING).any(dim=0).nonzero().flatten()
        needed = int(some[-1]) + 1 if len(some) else 0
        columns = _up(needed, multiple)
        finer = multiple // 2
        if not 0 < columns < x.shape[1] or (
            finer in _SHORTER_K and _up(needed, finer) == columns
        ):
            raise ValueError("padded as far as that, or said already")
        return rest(step.apply(x[:, :columns]), x.shape)

    return apply


def _behind_all(tiles: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    flat, size = tiles.flatten(), shape.numel()
    return steps.pad("", 0, len(flat), size).apply(flat).reshape(shape)


def _behind_each(tiles: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    return steps.pad("", 1, tiles.shape[1], shape[1]).apply(tiles)


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _tiles(rows: int, lanes: int, columns: int) -> Move:
    """As the scale swizzle, in tiles of another size."""

    def apply(x: torch.Tensor) -> torch.Tensor:
        tiles = split(split(x, 1, (-1, columns)), 0, (-1, rows // lanes, lanes))
        return tiles.transpose(1, 3).reshape(x.shape)

    return apply


def _by_column(x: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    tiles = x.reshape(x.shape[0] // rows, x.shape[1] // columns, -1)
    return tiles.transpose(0, 1).reshape(x.shape)


def _tiles_by_column(step: Step) -> Move:
    def apply(x: torch.Tensor) -> torch.Tensor:
        tiles = step.apply(x)
        if tiles.ndim < 3:
            raise ValueError("no tiles")
        return tiles.transpose(0, 1).reshape(tiles.shape)

    return apply


def _other_padding(step: Step) -> Iterator[tuple[str, Move]]:
    def filled(order: Callable[[int, int], torch.Tensor]) -> Move:
        def apply(x: torch.Tensor) -> torch.Tensor:
            padded = step.apply(x)
            axis = grown(x, padded)
            rows = order(x.shape[axis], padded.shape[axis])
            taken = x.index_select(axis, rows.clamp(min=0))
            shape = [1] * x.ndim
            shape[axis] = -1
            return taken.masked_fill((rows < 0).view(shape), PADDING)

        return apply

    yield (
        f"{step} at the start, not at the end",
        filled(lambda n, to: torch.arange(to) - (to - n)),
    )
    yield (
        f"{step} with copies of the last, not with zeros",
        filled(lambda n, to: torch.arange(to).clamp(max=n - 1)),
    )
    yield (
        f"{step} with the first ones again, not with zeros",
        filled(lambda n, to: torch.arange(to) % n),
    )


def _other_slices(step: Step) -> Iterator[tuple[str, Move]]:
    def shifted(by: int) -> Move:
        def apply(x: torch.Tensor) -> torch.Tensor:
            return step.apply(x.roll(-by, grown(step.apply(x), x)))

        return apply

    def of_elements(x: torch.Tensor) -> torch.Tensor:
        part = step.apply(x)
        axis = grown(part, x)
        if axis != 1:
            raise ValueError("no blocks on this axis")
        along = [1] * x.ndim
        along[axis] = -1
        places = torch.arange(x.shape[axis]).view(along).expand(x.shape)
        start = int(step.apply(places).flatten()[0])
        return step.apply(x.roll(start - BLOCK * start, axis))

    yield f"{step} begins at an offset of elements, not of blocks of 32", of_elements
    for by in (1, 16, 32, -1, -16, -32):
        side = "late" if by > 0 else "early"
        yield f"{step} begins {abs(by)} too {side}", shifted(by)

    def dealt(x: torch.Tensor) -> torch.Tensor:
        part = step.apply(x)
        axis = grown(part, x)
        ranks = x.shape[axis] // part.shape[axis]
        if ranks * part.shape[axis] != x.shape[axis]:
            raise ValueError("no equal parts")
        dealt = (
            split(x, axis, (-1, ranks)).movedim(axis + 1, axis).flatten(axis, axis + 1)
        )
        return step.apply(dealt)

    yield f"{step}: dealt out one by one, not in ranges", dealt


def grown(small: torch.Tensor, large: torch.Tensor) -> int:
    """The axis on which one is longer."""
    for axis, (n, to) in enumerate(zip(small.shape, large.shape, strict=True)):
        if n != to:
            return axis
    raise ValueError("nothing to pad")


def split(x: torch.Tensor, axis: int, sizes: tuple[int, ...]) -> torch.Tensor:
    """``x.unflatten``; where it does not fit, an error that costs less."""
    part = math.prod(size for size in sizes if size > 0)
    if axis >= x.ndim or not part or x.shape[axis] % part:
        raise ValueError(f"{list(x.shape)} does not divide by {part}")
    return x.unflatten(axis, sizes)
