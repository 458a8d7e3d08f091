"""Edits of a layout's chain: steps extra, moved, elsewhere on an axis, or others.

What `explain_chain` tries first, the usual ones, stands there. These are the rest of
what a loader may do in the place of one step, as general as steps are: an order that
is put on rows may be put on columns, and what is done may be done once more.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import replace

import torch

from mxmoe.reference.layouts import PADDING
from mxmoe.reference.layouts import Chain
from mxmoe.reference.layouts import steps
from mxmoe.reference.layouts.steps import Move
from mxmoe.reference.layouts.steps import Step
from mxmoe.reference.types import Shard

Edited = Iterator[tuple[str, Chain]]


def other_steps(chain: Chain) -> Edited:
    """One step with another parameter, on the other axis, or moved."""
    for n, step in enumerate(chain.steps):
        for words, apply in _in_its_place(step):
            yield words, _with(chain, n, n + 1, _step(words, apply))
        if _keeps_shape(step):
            words = f"{step} on columns, not on rows"
            yield words, _with(chain, n, n + 1, _step(words, _on_columns(step.apply)))
    yield from moved_steps(chain)


def moved_steps(chain: Chain) -> Edited:
    """A step earlier or later than it belongs."""
    for n, step in enumerate(chain.steps):
        rest = chain.without(n).steps
        for to in range(len(rest) + 1):
            if abs(to - n) < 1:
                continue
            other = rest[to] if to < n else rest[to - 1]
            side = "before" if to < n else "after"
            against = "after" if to < n else "before"
            moved = (*rest[:to], step, *rest[to:])
            words = f"{step} {side} {other}, not {against} it"
            yield words, replace(chain, steps=moved)


def extra_steps(chain: Chain) -> Edited:
    """A step too many, at each place of the chain."""
    for n in range(len(chain.steps), -1, -1):
        at = "after the last step"
        if n < len(chain.steps):
            at = f"before {chain.steps[n]}"
        for words, apply in (*_general(chain, n), *_known(chain)):
            extra = f"extra: {words}, {at}"
            yield extra, _with(chain, n, n, _step(words, apply))


def _general(chain: Chain, n: int) -> Iterator[tuple[str, Move]]:
    """Moves that any code may make by mistake, along each axis before step `n`."""
    names = [step.name for step in chain.steps[:n]]
    halves = chain.source.startswith("gate_up")
    apart = "de-interleave" in names and "stack up, gate" not in names
    tiled = any(name.startswith(_TILES) for name in names)
    axes = ("rows", "K columns")
    if apart:
        axes = ("halves", "lanes", "K columns")  # type: ignore[assignment]
    elif tiled:
        axes = ("rows of tiles", "tiles along K", "bytes of each tile")  # type: ignore[assignment]
    # Until they are sorted, rows alternate gate, up.
    alternate = halves and not any(name.startswith(_SORTS) for name in names)
    if alternate:
        yield from _GATES_AND_UPS
    for axis, what in enumerate(axes):
        for words, apply in _LINE_MOVES:
            if not (alternate and axis == 0 and words == "exchanged in pairs"):
                yield f"{what} {words}", _along(axis, apply)
    yield "rows and columns transposed", lambda x: x.transpose(0, 1).reshape(x.shape)


_GATES_AND_UPS: tuple[tuple[str, Move], ...] = (
    ("gates and ups exchanged", lambda x: _split(x, 0, (-1, 2)).flip(1).flatten(0, 1)),
    ("gates in the place of ups", lambda x: x[0::2].repeat_interleave(2, 0)),
    ("ups in the place of gates", lambda x: x[1::2].repeat_interleave(2, 0)),
)
_TILES = ("tiles", "mma fragments", "scales of")
_EIGHT_BY_EIGHT = "8 gates, 8 ups"
_SORTS = ("de-interleave", _EIGHT_BY_EIGHT)


def _known(chain: Chain) -> Iterator[tuple[str, Move]]:
    """Steps of this and of other layouts, and their inverses."""
    pool = {str(step): step for step in chain.steps if _keeps_shape(step)}
    for step in (steps.row_shuffle(16), steps.row_shuffle(32), steps.scale_swizzle()):
        pool.setdefault(str(step), step)
    pool.setdefault(str(steps.gated_interleave()), steps.gated_interleave())
    for name, step in pool.items():
        yield name, step.apply
        yield f"inverse of {name}", step.undo
        if _keeps_shape(step):
            yield f"{name} on columns", _on_columns(step.apply)


_LINE_MOVES: tuple[tuple[str, Callable[[torch.Tensor], torch.Tensor]], ...] = (
    ("shifted by one", lambda x: x.roll(1, 0)),
    ("shifted back by one", lambda x: x.roll(-1, 0)),
    ("moved by one, the first twice", lambda x: torch.cat((x[:1], x[:-1]))),
    ("moved back by one, the last twice", lambda x: torch.cat((x[1:], x[-1:]))),
    ("reversed", lambda x: x.flip(0)),
    ("exchanged in pairs", lambda x: _split(x, 0, (-1, 2)).flip(1).flatten(0, 1)),
    (
        "with their halves exchanged",
        lambda x: _split(x, 0, (2, -1)).flip(0).flatten(0, 1),
    ),
    (
        "with their halves interleaved",
        lambda x: _split(x, 0, (2, -1)).transpose(0, 1).flatten(0, 1),
    ),
    (
        "de-interleaved",
        lambda x: _split(x, 0, (-1, 2)).transpose(0, 1).flatten(0, 1),
    ),
)


def _in_its_place(step: Step) -> Iterator[tuple[str, Move]]:
    """What else may be done where `step` belongs."""
    if step.name.startswith("row shuffle"):
        for block in (8, 16, 32, 64, 128, 256):
            other = _transposed_rows(block, 8)
            if f"row shuffle {block}" != step.name:
                yield f"row shuffle {block} instead of {step}", other
            words = f"rows transposed by 8 in each {block} instead of {step}"
            yield words, _transposed_rows(block, block // 8)
    if step.name == _EIGHT_BY_EIGHT:
        for lanes in (1, 2, 4, 16, 32):
            words = f"{lanes} gates, {lanes} ups instead of {step}"
            yield words, _gates_then_ups(lanes)
    if step.name == steps.scale_swizzle().name:
        yield from _other_swizzles(step)
    if step.name.startswith("pad "):
        yield from _other_padding(step)
    if step.name.startswith("slice "):
        yield from _other_slices(step)
    if step.name.startswith(_TILES):
        yield f"{step}: tiles by column, not by row", _tiles_by_column(step)
        yield f"{step} of tiles in reverse order", lambda x: step.apply(x).flip(0)
    if step.name.startswith("de-interleave"):
        words = "gates and ups taken as the two halves, not alternating"
        yield words, lambda x: _split(x, 0, (2, -1))
    if step.name.startswith("stack"):
        words = f"rows kept alternating, not {step}"
        yield words, lambda x: x.transpose(0, 1).flatten(0, 1)


def _gates_then_ups(lanes: int) -> Move:
    return lambda x: _split(x, 0, (-1, lanes, 2)).transpose(1, 2).flatten(0, 2)


def _transposed_rows(block: int, lanes: int) -> Move:
    """Rows of each `block` as [lanes, block / lanes], transposed."""

    def apply(x: torch.Tensor) -> torch.Tensor:
        rows = _split(x, 0, (-1, max(lanes, 1), block // max(lanes, 1)))
        return rows.transpose(1, 2).flatten(0, 2)

    return apply


def _other_swizzles(step: Step) -> Iterator[tuple[str, Move]]:
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


def _tiles(rows: int, lanes: int, columns: int) -> Move:
    """As the scale swizzle, in tiles of another size."""

    def apply(x: torch.Tensor) -> torch.Tensor:
        tiles = _split(_split(x, 1, (-1, columns)), 0, (-1, rows // lanes, lanes))
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
            axis = _grown(x, padded)
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
            return step.apply(x.roll(-by, _grown(step.apply(x), x)))

        return apply

    for by in (1, 16, 32, -1, -16, -32):
        side = "late" if by > 0 else "early"
        yield f"{step} begins {abs(by)} too {side}", shifted(by)

    def dealt(x: torch.Tensor) -> torch.Tensor:
        part = step.apply(x)
        axis = _grown(part, x)
        ranks = x.shape[axis] // part.shape[axis]
        if ranks * part.shape[axis] != x.shape[axis]:
            raise ValueError("no equal parts")
        dealt = (
            _split(x, axis, (-1, ranks)).movedim(axis + 1, axis).flatten(axis, axis + 1)
        )
        return step.apply(dealt)

    yield f"{step}: dealt out one by one, not in ranges", dealt


def cut_before_padding(pad: Step, cut: Step, shard: Shard) -> Step:
    """The rank's part as i / tp, padded afterwards, on whatever axis is padded."""

    def apply(x: torch.Tensor) -> torch.Tensor:
        whole = pad.apply(x)
        axis = _grown(x, whole)
        size, count = cut.apply(whole).shape[axis], x.shape[axis]
        each = -(-count // shard.tp_size)
        start, stop = (min(count, each * n) for n in (shard.tp_rank, shard.tp_rank + 1))
        if stop - start > size:
            raise ValueError("more than fits")
        return steps.pad("", axis, stop - start, size).apply(
            x.narrow(axis, start, stop - start)
        )

    return _step("sliced at i / tp before padding", apply)


def _grown(small: torch.Tensor, large: torch.Tensor) -> int:
    """The axis on which one is longer."""
    for axis, (n, to) in enumerate(zip(small.shape, large.shape, strict=True)):
        if n != to:
            return axis
    raise ValueError("nothing to pad")


def _keeps_shape(step: Step) -> bool:
    """Whether a step of this name gives back rows and columns, as many as before."""
    kept = ("row shuffle", "scale swizzle", "gated interleave", "8 gates")
    return step.name.startswith(kept)


def _split(x: torch.Tensor, axis: int, sizes: tuple[int, ...]) -> torch.Tensor:
    """``x.unflatten``; where it does not fit, an error that costs less."""
    part = math.prod(size for size in sizes if size > 0)
    if axis >= x.ndim or not part or x.shape[axis] % part:
        raise ValueError(f"{list(x.shape)} does not divide by {part}")
    return x.unflatten(axis, sizes)


def _along(axis: int, apply: Move) -> Move:
    def moved(x: torch.Tensor) -> torch.Tensor:
        if axis >= x.ndim:
            raise ValueError(f"no axis {axis}")
        return apply(x.transpose(0, axis)).transpose(0, axis)

    return moved


def _on_columns(apply: Move) -> Move:
    return lambda x: apply(x.transpose(0, 1)).transpose(0, 1)


def _step(name: str, apply: Move) -> Step:
    return Step(name, apply, lambda x: x)


def _with(chain: Chain, start: int, stop: int, *new: Step) -> Chain:
    return replace(chain, steps=(*chain.steps[:start], *new, *chain.steps[stop:]))
