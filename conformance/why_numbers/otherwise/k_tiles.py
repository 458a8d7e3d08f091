"""K blocks of a matrix that are taken from another tile of K, by the loop over it."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import replace

import torch

from mxmoe.conformance.why_numbers.expert_content import Matrix

# K blocks of 32 in a step of the loop.
_STEPS = (1, 2, 4, 8)
_STRIDES = {"twice": 2.0, "half": 0.5}

Change = Callable[[Matrix], Matrix]


def k_tiles() -> Iterator[tuple[str, Change]]:
    """(words with a gap for the matrices, change)."""
    for step in _STEPS:
        k = 32 * step
        for words, parts in (
            ("weights", ("elements", "scales")),
            ("scales", ("scales",)),
            ("codes", ("elements",)),
        ):
            yield (
                f"{words} of {{}} in the last step of {k} lanes of K are those of the "
                "step before",
                _taking(parts, _last_stale(step)),
            )
        for words, factor in _STRIDES.items():
            yield (
                f"scales of {{}} advance by {words} as many blocks as they should in "
                f"each step of {k} lanes of K",
                _taking(("scales",), _strided(step, factor)),
            )


def _taking(
    parts: tuple[str, ...], source: Callable[[torch.Tensor], torch.Tensor]
) -> Change:
    def change(m: Matrix) -> Matrix:
        at = source(torch.arange(m.scales.shape[1]))
        return replace(m, **{name: getattr(m, name)[:, at] for name in parts})

    return change


def _last_stale(step: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """The blocks of the last step, whole or not, from one step before."""

    def source(block: torch.Tensor) -> torch.Tensor:
        first = (len(block) - 1) // step * step
        return torch.where((block >= first) & (block >= step), block - step, block)

    return source


def _strided(step: int, factor: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """Behind the last block the last one again."""

    def source(block: torch.Tensor) -> torch.Tensor:
        begins = (block // step * step * factor).long()
        return (begins + block % step).clamp(max=len(block) - 1)

    return source
