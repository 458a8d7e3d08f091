"""Why an output is wrong: a grid of experts is larger than their number.

Programs handle blocks of experts, so that their number is rounded up; what lies behind
the last is taken modulo the number, or as the last one, and added once more.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from mxmoe.conformance.why_numbers.layer_steps import Fit
from mxmoe.conformance.why_numbers.slots.scaled_slots import Slots
from mxmoe.conformance.why_numbers.slots.scaled_slots import fits_of_weights

Tensor = torch.Tensor

# Experts that a program may handle.
BLOCKS = (2, 4, 8, 16, 32, 64)
# One expert that is added twice may be so for other reasons.
_FEWEST = 2


def explain_expert_grids(
    slots: Slots, owned: range, *, asked: bool = False
) -> list[Fit]:
    """How a grid is rounded up, if what it adds too often is all that is wrong.

    owned : the experts of the rank. asked : whether another case says so; else experts
    that are added twice, or all as often, tell too little.
    """
    if len(owned) == 0:
        return []
    served = slots.weights != 0

    def read(slots: Slots) -> Iterator[tuple[str, Tensor]]:
        local = (slots.ids.long() - owned.start).clamp(0, len(owned) - 1)
        for words, often in _often(len(owned)):
            seen = often[local[served]].unique()
            some = len(seen) > 1 and int(often.sum()) >= len(owned) + _FEWEST
            if asked or some:
                yield words, slots.weights * often[local]

    return fits_of_weights(slots, read)


def _often(experts: int) -> Iterator[tuple[str, Tensor]]:
    """(words, how often each of the rank's experts is added [e])."""
    for block in BLOCKS:
        grid = torch.arange(-(-experts // block) * block)
        where = f"e of a grid of experts rounded up to a multiple of {block}"
        for how, expert in (
            ("experts added once for each {}, modulo their number", grid % experts),
            (
                "the last expert added for each {} behind it",
                grid.clamp(max=experts - 1),
            ),
        ):
            often = torch.bincount(expert, minlength=experts).double()
            yield how.format(where), often
