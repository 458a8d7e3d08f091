"""The finished tensor moved as memory: transposed, tiled, or off by some bytes.

Steps of a layout move whole blocks; what is done to the finished tensor may tear them.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator

import torch

from mxmoe.conformance.why_bytes.suspect import Place
from mxmoe.conformance.why_bytes.suspect import Suspect
from mxmoe.reference.layouts import steps

Move = Callable[[torch.Tensor], torch.Tensor]

_DISTANCES = tuple(sign * 2**n for n in range(9) for sign in (1, -1))
_OTHER_LAYOUTS = (
    steps.scale_swizzle(),
    steps.row_shuffle(32),
    steps.row_shuffle(16),
    steps.gated_interleave(),
)


def memory_moves(suspect: Suspect) -> Iterator[tuple[str, Place]]:
    """Each move of all experts' tensors that gives the bytes, entry by entry.

    None where only a part of the entries is looked at.
    """
    shape = suspect.index_map.shape
    if len(suspect.positions) != suspect.prepared.found[0].numel():
        return
    expected = suspect.expected.reshape(-1, *shape)
    for words, move in _moves(suspect):
        try:
            moved = move(expected).reshape(suspect.expected.shape)
        except (RuntimeError, IndexError, ValueError):
            continue
        place = suspect.holds(moved)
        if place is not None:
            yield words, place


def _moves(suspect: Suspect) -> Iterator[tuple[str, Move]]:
    yield "transposed in memory", lambda x: x.transpose(1, 2)
    yield "bytes of each row reversed", lambda x: x.flip(-1)
    for step in _OTHER_LAYOUTS:
        for words, apply in (
            (str(step), step.apply),
            (f"inverse of {step}", step.undo),
        ):
            yield f"extra: {words}, on single bytes", _on_each(apply)
    for by in _DISTANCES:
        side = "late" if by > 0 else "early"
        one = "entry" if abs(by) == 1 else "entries"
        words = f"memory {abs(by)} {one} too {side}"
        yield f"{words}, over all experts", lambda x, by=by: x.flatten().roll(by)  # type: ignore[misc]
        yield f"{words}, in each expert", lambda x, by=by: x.flatten(1).roll(by, 1)  # type: ignore[misc]
        yield f"{words}, in each row", lambda x, by=by: x.roll(by, -1)  # type: ignore[misc]
    if suspect.index_map.source.endswith("blocks"):
        yield (
            "each row one code (4 bits) too late",
            lambda x: x << 4 | x.roll(1, -1) >> 4,
        )
        yield (
            "each row one code (4 bits) too early",
            lambda x: x >> 4 | x.roll(-1, -1) << 4,
        )


def _on_each(apply: Move) -> Move:
    return lambda x: torch.stack([apply(expert) for expert in x])
