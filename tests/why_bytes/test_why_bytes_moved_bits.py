"""What a byte failure says of a layout that moves bits within words."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import ClassVar

import pytest

from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.faults.plain import subject_of
from mxmoe.conformance.judging.bytes import judge_tensor
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.judging.trial import repeatable_settings
from mxmoe.conformance.verdict import Failure
from mxmoe.reference.layouts import TRITON_HOPPER


class Prepares:
    """A loader that declares the Hopper layout."""

    name = "prepares"
    capabilities: ClassVar = {"layout": TRITON_HOPPER.name}

    def __init__(self, prepare) -> None:
        self.prepare = prepare


def failure_of(prepare) -> str:
    """What is said of the gate_up weights; the down bias is right."""
    case = Case(layer=0, tokens=0)
    with repeatable_settings() as settings:
        judge = Judge(subject_of(Prepares(prepare)), settings, "bytes")
        judge_tensor(judge, TRITON_HOPPER, case, "down_bias")
        with pytest.raises(Failure) as failure:
            judge_tensor(judge, TRITON_HOPPER, case, "gate_up_weights")
    return failure.value.text


def test_one_wrong_bit_is_named_by_the_code_that_it_belongs_to() -> None:
    """The sign of one code, wherever the layout puts that bit."""

    def prepare(weights, config, shard, device):
        damaged = weights.clone()
        damaged.gate_up_blocks[1, 37, 1, 5] ^= 1 << 7
        return TRITON_HOPPER.expected(damaged, config, shard)

    text = failure_of(prepare)
    assert "1 of 458752 entries differ" in text
    assert "expert 1, up 18 (checkpoint row 37), block 1, byte 5" in text
    found = re.search(r"expected 0x(..) \(codes .*\), found 0x(..) \(codes", text)
    assert found is not None
    expected, wrong = (int(digits, 16) for digits in found.groups())
    assert 1 << 7 == expected ^ wrong


def test_bits_left_in_their_place_are_named() -> None:
    def prepare(weights, config, shard, device):
        chain = TRITON_HOPPER.chains(config, shard)["gate_up_weights"]
        plain = replace(chain, bits=None).index_map(config)
        found = TRITON_HOPPER.expected(weights, config, shard)
        return found | {"gate_up_weights": plain.gather(weights.gate_up_blocks)}

    text = failure_of(prepare)
    assert "why    gate_up_weights: missing: FP4 codes spread for bfloat16" in text
