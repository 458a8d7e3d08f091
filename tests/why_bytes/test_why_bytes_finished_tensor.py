"""An edit of the finished tensor is named, and nothing is said without one."""

from __future__ import annotations

import pytest
import torch

from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.designed import make_case_data
from mxmoe.conformance.judging.compare_bytes import as_bytes
from mxmoe.conformance.judging.compare_bytes import compare_bytes
from mxmoe.conformance.judging.compare_bytes import decoded
from mxmoe.conformance.judging.compare_bytes import describe_source
from mxmoe.conformance.judging.compare_bytes import row_provenance
from mxmoe.conformance.why_bytes.finished_tensor import EDITS
from mxmoe.conformance.why_bytes.finished_tensor import Edit
from mxmoe.conformance.why_bytes.finished_tensor import (
    explain_bytes as explain_bytes_by,
)
from mxmoe.conformance.why_bytes.finished_tensor import explain_tensor
from mxmoe.reference.layouts import CHECKPOINT_ORDER
from mxmoe.reference.types import WHOLE
from mxmoe.reference.types import MoEConfig

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = MoEConfig(hidden=96, intermediate=192, experts=4, top_k=3)
WEIGHTS = make_case_data(Case(config=CONFIG, tokens=1)).weights
EXPECTED = CHECKPOINT_ORDER.expected(WEIGHTS, CONFIG, WHOLE)
FITTING = [
    pytest.param(name, edit, id=f"{name}-{edit.name}")
    for name, tensor in EXPECTED.items()
    for edit in EDITS
    if edit.fits(name, tensor)
]
NO_EDIT = "no edit of one or two known steps gives these bytes"


def explain_bytes(
    found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], name: str
) -> list[str]:
    """By edits of the expected tensors alone."""
    return explain_bytes_by(
        found, expected, name, lambda n: explain_tensor(n, found[n], expected[n])
    )


@pytest.mark.parametrize(("name", "edit"), FITTING)
def test_an_edit_is_recovered_from_the_bytes_it_gives(name: str, edit: Edit) -> None:
    found = edit.apply(EXPECTED[name])
    names = explain_tensor(name, found, EXPECTED[name])
    assert edit.name in names
    same = [e for e in EDITS if e.name in names]
    assert all(
        torch.equal(as_bytes(e.apply(EXPECTED[name])), as_bytes(found)) for e in same
    )


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("gate_up_bias", "rows de-interleaved, ups first", "row shuffle 32"),
        ("gate_up_blocks", "rows de-interleaved, gates first", "row shuffle 32"),
        ("gate_up_scales", "gate and up swapped", "biased exponents one low"),
        ("down_blocks", "nibbles swapped", "K blocks reversed"),
        ("down_scales", "row shuffle 16", "experts reversed"),
        ("down_bias", "rows reversed", "halved"),
    ],
)
def test_two_edits_are_recovered_in_their_order(
    name: str, first: str, second: str
) -> None:
    one, two = (next(e for e in EDITS if e.name.startswith(w)) for w in (first, second))
    found = two.apply(one.apply(EXPECTED[name]))
    assert f"{one.name}, then {two.name}" in explain_tensor(name, found, EXPECTED[name])


def test_edits_of_equal_bytes_are_all_named() -> None:
    """With two experts, shifted, shifted back and reversed are the same."""
    pair = {name: tensor[:2] for name, tensor in EXPECTED.items()}
    found = pair | {"down_bias": pair["down_bias"].flip(0)}
    [first, *_] = explain_bytes(found, pair, "down_bias")
    assert first == (
        "why    down_bias: any of: experts shifted by one; "
        "experts shifted back by one; experts reversed"
    )


@pytest.mark.parametrize("name", EXPECTED)
def test_nothing_is_claimed_for_a_random_order(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    for axis in (0, 1):
        count = EXPECTED[name].shape[axis]
        order = torch.randperm(count, generator=generator)
        while axis == 0 and order.tolist() != [2, 0, 3, 1]:
            order = torch.randperm(count, generator=generator)
        found = EXPECTED[name].index_select(axis, order)
        assert explain_tensor(name, found, EXPECTED[name]) == []
    line = explain_bytes({**EXPECTED, name: found}, EXPECTED, name)[0]
    assert line == f"why    {name}: {NO_EDIT}"


@pytest.mark.parametrize("name", EXPECTED)
def test_nothing_is_claimed_for_one_wrong_byte(name: str) -> None:
    found = EXPECTED[name].clone()
    found.view(torch.uint8).flatten()[-1] ^= 0x04
    assert explain_tensor(name, found, EXPECTED[name]) == []


def test_tensors_of_one_matrix_are_set_against_each_other() -> None:
    """The fault of TensorRT-LLM 13867: only the bias is in another row order."""
    shuffle = next(e for e in EDITS if e.name.startswith("row shuffle 32"))
    found = {**EXPECTED, "gate_up_bias": shuffle.apply(EXPECTED["gate_up_bias"])}
    assert explain_bytes(found, EXPECTED, "gate_up_bias") == [
        "why    gate_up_bias: row shuffle 32 (epilogue tile 128)",
        "       gate_up_blocks: as specified, so the two disagree",
        "       gate_up_scales: as specified, so the two disagree",
    ]


def test_tensors_with_the_same_edit_agree() -> None:
    swap = next(e for e in EDITS if e.name == "gate and up swapped")
    found = {
        name: swap.apply(tensor) if name.startswith("gate_up") else tensor
        for name, tensor in EXPECTED.items()
    }
    lines = explain_bytes(found, EXPECTED, "gate_up_blocks")
    assert len(lines) == 3
    assert all(line.endswith("gate and up swapped") for line in lines)


@pytest.mark.parametrize(
    ("name", "flat", "words"),
    [
        ("gate_up_bias", 7, "up 3 (checkpoint row 7)"),
        ("gate_up_scales", 6, "gate 1 (checkpoint row 2), block 0"),
        ("gate_up_blocks", 16 * 7 + 5, "gate 1 (checkpoint row 2), block 1, byte 5"),
        ("down_scales", 7, "down row 1, block 1"),
        ("down_bias", 4, "down row 4"),
    ],
)
def test_an_entry_is_named_in_the_checkpoints_words(
    name: str, flat: int, words: str
) -> None:
    assert describe_source(name, flat, CONFIG) == words


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("x_blocks", torch.tensor(0xA3).byte(), "0xa3 (codes 3,a = 1.5, -1)"),
        ("x_scales", torch.tensor(0x7E).byte(), "0x7e (2^-1)"),
        ("x_scales", torch.tensor(0xFF).byte(), "0xff (NaN)"),
        ("x_bias", torch.tensor(-1.5).bfloat16(), "0xbfc0 (-1.5)"),
    ],
)
def test_an_entry_is_shown_decoded(name: str, value: torch.Tensor, words: str) -> None:
    assert decoded(name, value) == words


def test_the_row_that_was_found_is_named_if_it_is_one() -> None:
    name, wanted = "gate_up_blocks", EXPECTED["gate_up_blocks"]
    index_map = CHECKPOINT_ORDER.maps(CONFIG, WHOLE)[name]
    found = wanted.roll(1, 1)
    difference = compare_bytes(found, wanted)
    assert difference is not None
    row = row_provenance(difference.at, found, wanted, index_map, CONFIG)
    assert row == "up 191 (checkpoint row 383)"
    dead = torch.zeros_like(wanted)
    assert row_provenance(difference.at, dead, wanted, index_map, CONFIG) is None
