"""K blocks that take codes or scales of some blocks before or after are named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.case import parse_case
from mxmoe.conformance.cases.designed import make_case_data
from mxmoe.conformance.faults.plain import PLAIN
from mxmoe.conformance.faults.plain import subject_of

Tensor = torch.Tensor
Why = Callable[[Case, Tensor], str]
pytestmark = pytest.mark.usefixtures("one_thread")
CASE = parse_case("e2k2h128i256/tp1r0/t9/s0")
DATA = make_case_data(CASE)


def late(x: Tensor, *, first: int, by: int) -> Tensor:
    """[e, rows, g, ...] : blocks from `first` on are those of `by` blocks before."""
    found = x.clone()
    found[:, :, first:] = x[:, :, first - by : x.shape[2] - by]
    return found


def early(x: Tensor, *, end: int, by: int) -> Tensor:
    """Blocks before `end` are those of `by` blocks after."""
    found = x.clone()
    found[:, :, :end] = x[:, :, by : end + by]
    return found


def output(names: tuple[str, ...], change: Callable[[Tensor], Tensor]) -> Tensor:
    """The output [t, h] of a candidate that changes these tensors."""

    def pack(*given: object) -> dict[str, Tensor]:
        packed = PLAIN.pack(*given)  # type: ignore[arg-type]
        return {**packed, **{name: change(packed[name]) for name in names}}

    subject = subject_of(replace(PLAIN, pack=pack))
    prepared = subject.prepare(DATA.weights, DATA.config, CASE.shard)
    return subject.forward(prepared, DATA.hidden_states, DATA.routing)


SHIFTS: dict[str, tuple[tuple[str, ...], Callable[[Tensor], Tensor]]] = {
    "scales of down of 3 K blocks before, in lanes 160..255 only": (
        ("down_scales",),
        lambda x: late(x, first=5, by=3),
    ),
    "scales of gate_up in the last step of 64 lanes of K are those of the step": (
        ("gate_up_scales",),
        lambda x: late(x, first=2, by=2),
    ),
    "codes of down of 4 K blocks after, in lanes 0..127 only": (
        ("down_blocks",),
        lambda x: early(x, end=4, by=4),
    ),
    "codes and scales of gate_up of the K block after, in K blocks 0..2 of": (
        ("gate_up_blocks", "gate_up_scales"),
        lambda x: early(x, end=3, by=1),
    ),
    "codes and scales of down of 4 K blocks before": (
        ("down_blocks", "down_scales"),
        lambda x: x.roll(4, 2),
    ),
}


@pytest.mark.parametrize("words", SHIFTS)
def test_blocks_that_hold_what_belongs_to_others_are_named(
    why: Why, words: str
) -> None:
    assert words in why(CASE, output(*SHIFTS[words]))
