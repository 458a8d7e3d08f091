"""K blocks of which codes, scales or both are those of some blocks before or after.

A pipeline that loads them some stages ahead takes another stage's. From which block on
is found where a hypothesis is confined to lanes or K blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from mxmoe.conformance.why_numbers.expert_content import Matrix
from mxmoe.conformance.why_numbers.expert_content import Otherwise
from mxmoe.conformance.why_numbers.otherwise_contents import edited

# Blocks of 32 in a K tile of 64, 96, 128 or 256.
_STEPS = (1, 2, 3, 4, 8)
_PARTS = {
    "scales": ("scales",),
    "codes": ("elements", "codes"),
    "codes and scales": ("elements", "codes", "scales"),
}


def block_shifts(blocks: dict[str, int]) -> Iterator[Otherwise]:
    """blocks : how many K blocks each matrix has."""
    for matrix, count in blocks.items():
        for part, names in _PARTS.items():
            for by in _STEPS:
                # Of one block, codes or scales alone are asked for elsewhere.
                if by >= count or (by == 1 and len(names) < len(_PARTS)):
                    continue
                for words, step in (("before", by), ("after", -by)):
                    name = f"{part} of {matrix} of {by} K blocks {words}"
                    change = partial(_shifted, names, step)
                    yield Otherwise(
                        name=name.replace(" 1 K blocks", " the K block"),
                        edit=edited(change, (matrix,)),
                    )


def _shifted(names: tuple[str, ...], by: int, m: Matrix) -> Matrix:
    """`names` of block g are those of block g - by, around."""
    parts = {name: getattr(m, name) for name in names}
    moved = {
        name: x.reshape(*m.scales.shape, -1).roll(by, 1).reshape(x.shape)
        for name, x in parts.items()
    }
    return replace(m, **moved)
