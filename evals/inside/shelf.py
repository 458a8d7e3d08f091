"""What is made of each layer's weights: kept as far as there is room, else made again.

Small models keep all that was prepared. Of a large one the first layers that fit are
kept, and beside them the one that was asked for last.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import torch

# Prepared layers that a search keeps: two of gpt-oss-20b, of 0.42 GB each. What else
# it holds at its peak, one expert in float64 and the bounds of its rows, is as much.
KEPT_BYTES = 2**30


@dataclasses.dataclass(kw_only=True, eq=False)
class Shelf:
    """room : bytes that are kept, beside what was asked for last."""

    room: float
    _used: int = 0
    _kept: dict[int, Any] = dataclasses.field(default_factory=dict, repr=False)
    _last: dict[int, Any] = dataclasses.field(default_factory=dict, repr=False)

    def get(self, layer: int, make: Callable[[], Any]) -> Any:
        """What `make` returned for `layer`, before or now."""
        for held in (self._kept, self._last):
            if layer in held:
                return held[layer]
        # Not beside what is made next.
        self._last.clear()
        made = make()
        size = held_bytes(made)
        fits = self._used + size <= self.room
        self._used += size if fits else 0
        (self._kept if fits else self._last)[layer] = made
        return made


def held_bytes(thing: object) -> int:
    """Bytes of the tensors in mappings, sequences and dataclasses, each one once."""
    found: dict[tuple[int, int], int] = {}
    left = [thing]
    while left:
        one = left.pop()
        if isinstance(one, torch.Tensor):
            found[one.data_ptr(), one.nbytes] = one.nbytes
        elif dataclasses.is_dataclass(one) and not isinstance(one, type):
            left += [getattr(one, f.name) for f in dataclasses.fields(one)]
        elif isinstance(one, Mapping):
            left += one.values()
        elif isinstance(one, list | tuple):
            left += one
    return sum(found.values())
