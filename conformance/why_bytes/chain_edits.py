"""Edits of a layout's chain: steps extra, moved, elsewhere on an axis, or others.

What `explain_chain` tries first, the usual ones, stands there. These are the rest of
what a loader may do in the place of one step, as general as steps are: an order that
is put on rows may be put on columns, and what is done may be done once more.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import replace

import torch

from mxmoe.conformance.why_bytes.rank_slices import cut_from_memory
from mxmoe.conformance.why_bytes.step_variants import EIGHT_BY_EIGHT
from mxmoe.conformance.why_bytes.step_variants import TILES
from mxmoe.conformance.why_bytes.step_variants import in_its_place
from mxmoe.conformance.why_bytes.step_variants import split
from mxmoe.reference.layouts import Chain
from mxmoe.reference.layouts import steps
from mxmoe.reference.layouts.steps import Move
from mxmoe.reference.layouts.steps import Step

Edited = Iterator[tuple[str, Chain]]


def other_steps(chain: Chain) -> Edited:
    """One step with another parameter, on the other axis, or moved."""
    for n, step in enumerate(chain.steps):
        for words, apply in in_its_place(step):
            yield words, with_steps(chain, n, n + 1, _step(words, apply))
        if _keeps_shape(step):
            words = f"{step} on columns, not on rows"
            yield (
                words,
                with_steps(chain, n, n + 1, _step(words, _on_columns(step.apply))),
            )
    yield from moved_steps(chain)
    yield from cut_from_memory(chain)


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
            yield extra, with_steps(chain, n, n, _step(words, apply))


def _general(chain: Chain, n: int) -> Iterator[tuple[str, Move]]:
    """Moves that any code may make by mistake, along each axis before step `n`."""
    names = [step.name for step in chain.steps[:n]]
    halves = chain.source.startswith("gate_up")
    apart = "de-interleave" in names and "stack up, gate" not in names
    tiled = any(name.startswith(TILES) for name in names)
    axes = ("rows", "K columns")
    if apart:
        axes = ("halves", "lanes", "K columns")  # type: ignore[assignment]
    elif tiled:
        axes = ("rows of tiles", "tiles along K", "bytes of each tile")  # type: ignore[assignment]
    # Until they are sorted, rows alternate gate, up.
    alternate = halves and not any(name.startswith(_SORTS) for name in names)
    if alternate:
        yield from _GATES_AND_UPS
        for first, what in enumerate(("gates", "ups")):
            for words, apply in _LINE_MOVES[:_OF_ONE_LINE]:
                yield f"{what} {words}", _every_other(first, apply)
    for axis, what in enumerate(axes):
        for words, apply in _LINE_MOVES:
            if not (alternate and axis == 0 and words == "exchanged in pairs"):
                yield f"{what} {words}", _along(axis, apply)
    yield "rows and columns transposed", lambda x: x.transpose(0, 1).reshape(x.shape)


_GATES_AND_UPS: tuple[tuple[str, Move], ...] = (
    ("gates and ups exchanged", lambda x: split(x, 0, (-1, 2)).flip(1).flatten(0, 1)),
    ("gates in the place of ups", lambda x: x[0::2].repeat_interleave(2, 0)),
    ("ups in the place of gates", lambda x: x[1::2].repeat_interleave(2, 0)),
)
_SORTS = ("de-interleave", EIGHT_BY_EIGHT)


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


# The first of `_LINE_MOVES` are tried on gates and on ups alone.
_OF_ONE_LINE = 5

_LINE_MOVES: tuple[tuple[str, Callable[[torch.Tensor], torch.Tensor]], ...] = (
    ("shifted by one", lambda x: x.roll(1, 0)),
    ("shifted back by one", lambda x: x.roll(-1, 0)),
    ("moved by one, the first twice", lambda x: torch.cat((x[:1], x[:-1]))),
    ("moved back by one, the last twice", lambda x: torch.cat((x[1:], x[-1:]))),
    ("reversed", lambda x: x.flip(0)),
    ("exchanged in pairs", lambda x: split(x, 0, (-1, 2)).flip(1).flatten(0, 1)),
    (
        "with their halves exchanged",
        lambda x: split(x, 0, (2, -1)).flip(0).flatten(0, 1),
    ),
    (
        "with their halves interleaved",
        lambda x: split(x, 0, (2, -1)).transpose(0, 1).flatten(0, 1),
    ),
    (
        "de-interleaved",
        lambda x: split(x, 0, (-1, 2)).transpose(0, 1).flatten(0, 1),
    ),
)


def _every_other(first: int, apply: Move) -> Move:
    """`apply` of rows `first`, `first` + 2, ..., among the others as they are."""

    def moved(x: torch.Tensor) -> torch.Tensor:
        rows = torch.arange(len(x))
        rows[first::2] = apply(rows[first::2])
        return x[rows]

    return moved


def _keeps_shape(step: Step) -> bool:
    """Whether a step of this name gives back rows and columns, as many as before."""
    kept = ("row shuffle", "scale swizzle", "gated interleave", "8 gates")
    return step.name.startswith(kept)


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


def with_steps(chain: Chain, start: int, stop: int, *new: Step) -> Chain:
    """The chain with other steps in the place of those from `start` to `stop`."""
    return replace(chain, steps=(*chain.steps[:start], *new, *chain.steps[stop:]))
