"""What the suite says of a prepared value that is computed, not moved."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import pytest
import torch

from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.faults.plain import subject_of
from mxmoe.conformance.judging.bytes import judge_tensor
from mxmoe.conformance.judging.bytes import judge_tensors
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.judging.partition import judge_partition
from mxmoe.conformance.judging.trial import repeatable_settings
from mxmoe.conformance.verdict import Failure
from mxmoe.reference.layouts import TRITON_MOE
from mxmoe.reference.types import WHOLE
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Shard

Tensors = dict[str, torch.Tensor]
Judgement = Callable[[Judge, Case], None]

LAYER = Case(layer=0, tokens=0)
TWO_RANKS = Case(layer=0, tokens=0, shard=Shard(tp_size=2))
# The last of 8 ranks has none of the 5 blocks, and so no scale.
ODD = MoEConfig(hidden=96, intermediate=160, experts=2, top_k=1)
EMPTY_RANK = Case(config=ODD, tokens=0, shard=Shard(tp_size=8, tp_rank=7))


class Prepares:
    """A loader that declares the layout; `edit` changes what it returns."""

    name = "prepares"
    capabilities: ClassVar = {"layout": TRITON_MOE.name, "shards": "any"}

    def __init__(self, edit: Callable[[Tensors, ExpertWeights], Tensors]) -> None:
        self.edit = edit

    def prepare(self, weights, config, shard, device) -> Tensors:
        tensors = TRITON_MOE.expected(weights, config, shard)
        return tensors | self.edit(tensors, weights)


def judged(edit, judgement: Judgement, case: Case) -> None:
    with repeatable_settings() as settings:
        judgement(Judge(subject_of(Prepares(edit)), settings, "bytes"), case)


def failure_of(edit, judgement: Judgement, case: Case) -> str:
    with pytest.raises(Failure) as failure:
        judged(edit, judgement, case)
    return failure.value.text


def bytes_of(name: str) -> Judgement:
    return lambda judge, case: judge_tensor(judge, TRITON_MOE, case, name)


def right(tensors: Tensors, _weights: ExpertWeights) -> Tensors:
    return {}


def negated(tensors: Tensors, _weights: ExpertWeights) -> Tensors:
    return {"wide_scales": ~tensors["wide_scales"]}


@pytest.mark.parametrize("case", [LAYER, EMPTY_RANK], ids=str)
def test_the_right_value_passes(case) -> None:
    judged(right, lambda judge, case: judge_tensors(judge, TRITON_MOE, case), case)


def test_the_ranks_right_values_pass() -> None:
    judged(right, judge_partition, TWO_RANKS)


def test_a_wrong_value_is_told_in_its_own_words() -> None:
    text = failure_of(negated, bytes_of("wide_scales"), LAYER)
    assert "expected False for the weights of this rank, found True" in text
    assert "why    wide_scales: the opposite of what it should be" in text


def test_a_value_of_the_wrong_kind_is_told() -> None:
    def scalar(tensors, _weights):
        return {"wide_scales": tensors["wide_scales"][0]}

    text = failure_of(scalar, bytes_of("wide_scales"), LAYER)
    assert "expected torch.bool [1], found torch.bool []" in text
    text = failure_of(scalar, judge_partition, TWO_RANKS)
    assert "wide_scales: expected torch.bool [1], found torch.bool []" in text


def test_a_value_of_the_whole_layer_is_recognised() -> None:
    def whole(_tensors, weights):
        return {"wide_scales": TRITON_MOE.expected(weights, ODD, WHOLE)["wide_scales"]}

    text = failure_of(whole, bytes_of("wide_scales"), EMPTY_RANK)
    assert "that of the whole layer, not of this rank's part" in text


def test_a_wrong_value_is_no_padding() -> None:
    text = failure_of(negated, judge_partition, TWO_RANKS)
    assert "wide_scales of rank tp2r0: expected False, found True" in text


def test_a_fault_beside_it_is_explained_as_ever() -> None:
    def bias_in_checkpoint_order(_tensors, weights):
        return {"gate_up_bias": weights.gate_up_bias.float()}

    text = failure_of(bias_in_checkpoint_order, bytes_of("gate_up_bias"), LAYER)
    assert "why    gate_up_bias: missing: 8 gates, 8 ups" in text
    assert "gate_up_weights: as specified, so the two disagree" in text


def test_our_bytes_for_a_device_leave_it_on_the_host() -> None:
    """A forward that is captured in a CUDA graph cannot ask the device."""
    subject = subject_of(Prepares(right))
    subject.__dict__["device"] = torch.device("meta")
    with repeatable_settings() as settings:
        judge = Judge(subject, settings, "bytes")
        config, weights = judge.layer_weights(0)
    found = subject.our_prepare(weights, config, WHOLE)
    devices = {name: tensor.device.type for name, tensor in found.items()}
    assert devices.pop("wide_scales") == "cpu"
    assert {"meta"} == set(devices.values())
