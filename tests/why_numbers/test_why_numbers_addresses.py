"""Codes and scales read at other addresses, or otherwise in a tail, are named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

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

CASE = parse_case("e8k2h96i160/tp1r0/t33/s0")
E, R1, G1 = 8, 320, 3
R2, G2 = 96, 5


def strided(x: Tensor, *, rows: int, first: int) -> Tensor:
    """Block (e, n, k) read at e * first + n * rows + k, from the first again."""
    e, n, k = (torch.arange(size) for size in x.shape[:3])
    at = e[:, None, None] * first + n[:, None] * rows + k
    flat = x.flatten(0, 2)
    return flat[at % len(flat)]


def wrapped(x: Tensor, *, blocks: int, whole: bool) -> Tensor:
    e, inside = torch.arange(x.shape[0]), torch.arange(x[0, ..., 0].numel())
    first = (e * len(inside))[:, None]
    at = (first + inside) % blocks if whole else first % blocks + inside
    return x.flatten(0, 2)[at].view(x.shape)


def swapped_from(x: Tensor, row: int) -> Tensor:
    tail = x[:, row:]
    return torch.cat((x[:, :row], tail << 4 | tail >> 4), dim=1)


EDITS: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "scales of down read as if rows had 3 K blocks, not 5, as those of gate_up": (
        "down_scales",
        lambda x: strided(x, rows=G1, first=R2 * G2),
    ),
    "codes of gate_up read as if rows had 4 K blocks, not 3": (
        "gate_up_blocks",
        lambda x: strided(x, rows=4, first=R1 * G1),
    ),
    "scales of gate_up of expert e read from row 96 * e on, not 320 * e": (
        "gate_up_scales",
        lambda x: strided(x, rows=G1, first=R2 * G1),
    ),
    "codes of gate_up of each expert read at offsets that wrap at 2^16 bytes": (
        "gate_up_blocks",
        lambda x: wrapped(x, blocks=2**12, whole=False),
    ),
    "scales of gate_up read at offsets that wrap at 2^12 bytes": (
        "gate_up_scales",
        lambda x: wrapped(x, blocks=2**12, whole=True),
    ),
}


def output_of(name: str, edit: Callable[[Tensor], Tensor]) -> Tensor:
    def pack(*given: Any) -> dict[str, Tensor]:
        packed = PLAIN.pack(*given)
        x = packed[name]
        blocks = x if name.endswith("blocks") else x[..., None]
        packed[name] = edit(blocks).view(x.shape)
        return packed

    data = make_case_data(CASE)
    subject = subject_of(replace(PLAIN, pack=pack))
    prepared = subject.prepare(data.weights, data.config, CASE.shard)
    return subject.forward(prepared, data.hidden_states, data.routing)


@pytest.mark.parametrize("words", EDITS)
def test_blocks_read_elsewhere_are_named_alone(why: Why, words: str) -> None:
    line = why(CASE, output_of(*EDITS[words]))
    assert line.startswith(f"why    behaves as if: {words}")
    assert "; or" not in line


def test_the_last_rows_are_named_by_their_lanes(why: Why) -> None:
    """Codes in another order, or what they are multiplied by: the same numbers."""
    line = why(CASE, output_of("gate_up_blocks", lambda x: swapped_from(x, 256)))
    assert "nibbles of gate_up swapped, in lanes 128..159 only" in line
