"""`kernels.triton_moe.prepare` refuses bad input in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from mxmoe.kernels.triton_moe.prepare import prepare
from mxmoe.kernels.trtllm_gen.bench_prepare import random_weights
from mxmoe.kernels.trtllm_gen.prepare import prepare as prepare_trtllm_gen
from mxmoe.reference.errors import BadInput
from mxmoe.reference.types import WHOLE
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import PreparedWeights
from mxmoe.reference.types import Shard

CPU = torch.device("cpu")
SMALL = MoEConfig(hidden=160, intermediate=224, experts=4, top_k=1)


def bad(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> ExpertWeights:
    weights = random_weights(SMALL, CPU)
    return replace(weights, **{name: change(weights.tensors()[name])})


def prepared() -> dict[str, torch.Tensor]:
    return prepare(random_weights(SMALL, CPU), SMALL, WHOLE, "cpu")


BAD_WEIGHTS: dict[str, tuple[Callable[[], object], str]] = {
    "dtype": (
        lambda: bad("down_scales", lambda t: t.view(torch.int8)),
        r"down_scales: expected torch\.uint8, found torch\.int8",
    ),
    "shape": (
        lambda: bad("gate_up_blocks", lambda t: t[:, 1:]),
        "gate_up_blocks: expected shape",
    ),
    "device": (
        lambda: bad("down_blocks", lambda t: t.to("meta")),
        "down_blocks: expected all weights on one device, here cpu, found meta",
    ),
    "all on meta": (
        lambda: random_weights(SMALL, CPU).to("meta"),
        "expected them on a CPU or CUDA device, found meta",
    ),
    "no bias": (
        lambda: replace(random_weights(SMALL, CPU), down_bias=None),
        "down_bias: expected a tensor",
    ),
    "nothing": (lambda: None, "expected one layer as ExpertWeights, found NoneType"),
    "fields in a mapping": (
        lambda: random_weights(SMALL, CPU).tensors(),
        "expected one layer as ExpertWeights, found dict",
    ),
    "prepared mapping": (
        prepared,
        r"found tensors that are prepared already \(gate_up_weights\)",
    ),
    "prepared for another kernel": (
        lambda: prepare_trtllm_gen(random_weights(SMALL, CPU), SMALL, WHOLE, "cpu"),
        r"found tensors that are prepared already \(fc1_weights\)",
    ),
    "PreparedWeights": (
        lambda: PreparedWeights(
            tensors=prepared(),
            layout="triton_moe.v1",
            config=SMALL,
            valid_hidden=160,
            valid_intermediate=224,
        ),
        r"found tensors that are prepared already \(gate_up_weights\)",
    ),
    "prepared tensors in the fields": (
        lambda: bad("gate_up_blocks", lambda _: prepared()["gate_up_weights"]),
        "gate_up_blocks: expected shape",
    ),
}


def refuse(match: str, **asked: object) -> None:
    arguments = {
        "weights": random_weights(SMALL, CPU),
        "config": SMALL,
        "shard": WHOLE,
        "device": "cpu",
    } | asked
    with pytest.raises(BadInput, match=match) as caught:
        prepare(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fault", BAD_WEIGHTS)
def test_bad_weights_are_refused(fault) -> None:
    make, match = BAD_WEIGHTS[fault]
    refuse(match, weights=make())


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"config": replace(SMALL, hidden=192)}, "gate_up_blocks: expected shape"),
        ({"shard": Shard(ep_size=3)}, "ep_size: expected a divisor of experts = 4"),
        ({"device": "meta"}, "device: expected a CPU or CUDA device"),
        ({"device": "no such"}, "device: expected one that is there"),
        ({"device": "cuda:999"}, "device: expected one that is there"),
    ],
)
def test_bad_arguments_are_refused(asked, match) -> None:
    refuse(match, **asked)
