"""Where a layout moves bits: one permutation of the 32 bits of each word."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

WORD_BITS = 32
WORD_BYTES = WORD_BITS // 8


@dataclass(frozen=True)
class BitOrder:
    """Bit b of every little-endian word of four bytes goes to bit `places[b]`.

    The words are neighbours along the last axis of a uint8 tensor, whose length is
    a multiple of 4. A word of zeros stays one: padding is padding before and after.
    """

    name: str
    places: tuple[int, ...]

    def __post_init__(self) -> None:
        assert sorted(self.places) == list(range(WORD_BITS)), self.places

    def __repr__(self) -> str:
        return self.name

    def apply(self, entries: torch.Tensor) -> torch.Tensor:
        """uint8 [..., 4n] in plain order -> the same shape, bits moved."""
        return _move(entries, enumerate(self.places))

    def undo(self, prepared: torch.Tensor) -> torch.Tensor:
        """The inverse of `apply`."""
        return _move(prepared, ((to, b) for b, to in enumerate(self.places)))


def _move(entries: torch.Tensor, moves: Iterable[tuple[int, int]]) -> torch.Tensor:
    """Each (from, to) moves one bit; those that move equally far go together."""
    targets: dict[int, int] = {}
    for origin, to in moves:
        targets[to - origin] = targets.get(to - origin, 0) | 1 << to
    # The copy starts at a word border, wherever its original lies in memory.
    words = entries.clone(memory_format=torch.contiguous_format).view(torch.int32)
    moved = torch.zeros_like(words)
    for distance, mask in targets.items():
        shifted = words << distance if distance >= 0 else words >> -distance
        moved |= shifted.bitwise_and_(_signed(mask))
    return moved.view(torch.uint8)


def _signed(mask: int) -> int:
    """The int32 with the bits of `mask`."""
    return mask - (mask >> 31 << WORD_BITS)
