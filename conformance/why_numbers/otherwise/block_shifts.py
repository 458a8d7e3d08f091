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
from mxmoe.conformance.why_numbers.layer_steps import Fit
from mxmoe.conformance.why_numbers.otherwise.contents import edited
from mxmoe.conformance.why_numbers.otherwise.one_thing import Wrong
from mxmoe.conformance.why_numbers.otherwise.one_thing import explain_confined
from mxmoe.conformance.why_numbers.otherwise.one_thing import explain_otherwise

_BOTH = ("elements", "scales")

# Steps, in blocks of 32, of scales and of codes: what K tiles of 64 to 256 have. Other
# scales take the products of the codes that are there; other codes are multiplied.
_STEPS = {("scales",): (2, 3, 4, 8), ("elements",): (2, 4), _BOTH: (1, 2, 4)}
_WORDS = {("scales",): "scales", ("elements",): "codes", _BOTH: "codes and scales"}


def explain_block_shifts(wrong: Wrong, blocks: dict[str, int]) -> list[Fit]:
    """Shifts of all K blocks, or of some, under which the output is right.

    blocks : how many each matrix has.
    """
    partly = list[Otherwise]()
    fits = explain_otherwise(wrong, _shifts(blocks), partly)
    return fits or explain_confined(wrong, partly)


def _shifts(blocks: dict[str, int]) -> Iterator[Otherwise]:
    for matrix, count in blocks.items():
        for names, steps in _STEPS.items():
            for by in (by for by in steps if by < count):
                which = "the K block" if by == 1 else f"{by} K blocks"
                for words, step in (("before", by), ("after", -by)):
                    change = partial(_shifted, names, step)
                    yield Otherwise(
                        name=f"{_WORDS[names]} of {matrix} of {which} {words}",
                        edit=edited(change, (matrix,)),
                    )


def _shifted(names: tuple[str, ...], by: int, m: Matrix) -> Matrix:
    """`names` of block g are those of block g - by, around."""
    return replace(m, **{name: getattr(m, name).roll(by, 1) for name in names})
