"""`kernels.trtllm_gen.prepare` refuses in one sentence and has written nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from mxmoe.kernels.trtllm_gen.bench_prepare import random_weights
from mxmoe.kernels.trtllm_gen.geometry import geometry
from mxmoe.kernels.trtllm_gen.prepare import prepare
from mxmoe.reference.errors import BadInput
from mxmoe.reference.types import WHOLE
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import PreparedWeights
from mxmoe.reference.types import Shard

CPU = torch.device("cpu")
SMALL = MoEConfig(hidden=160, intermediate=224, experts=4, top_k=1)
POISON = 0xAB


def poisoned(config: MoEConfig) -> dict[str, torch.Tensor]:
    """Output buffers full of a byte that `prepare` would overwrite."""
    outputs = geometry(config, WHOLE).outputs()
    found = {n: torch.empty(s, dtype=dtype) for n, (s, dtype) in outputs.items()}
    for tensor in found.values():
        tensor.view(torch.uint8).fill_(POISON)
    return found


def spread(tensor: torch.Tensor) -> torch.Tensor:
    """The same values with gaps between all entries."""
    gaps = tensor.repeat_interleave(3).view(*tensor.shape, 3)
    return gaps[..., 1]


def bad(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> ExpertWeights:
    weights = random_weights(SMALL, CPU)
    return replace(weights, **{name: change(weights.tensors()[name])})


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
    "prepared mapping": (
        lambda: prepare(random_weights(SMALL, CPU), SMALL, WHOLE, "cpu"),
        "found tensors that are prepared already",
    ),
    "PreparedWeights": (
        lambda: PreparedWeights(
            tensors=prepare(random_weights(SMALL, CPU), SMALL, WHOLE, "cpu"),
            layout="trtllm_gen.v1",
            config=SMALL,
            valid_hidden=160,
            valid_intermediate=224,
        ),
        "found tensors that are prepared already",
    ),
    "prepared tensors in the fields": (
        lambda: bad(
            "gate_up_blocks",
            lambda _: prepare(random_weights(SMALL, CPU), SMALL, WHOLE, "cpu")[
                "fc1_weights"
            ],
        ),
        "gate_up_blocks: expected shape",
    ),
}


def refuse(match: str, out: dict[str, Any], **asked: Any) -> None:
    """`prepare` raises one sentence, and every buffer is as it was."""
    arguments = {
        "weights": random_weights(SMALL, CPU),
        "config": SMALL,
        "shard": WHOLE,
        "device": "cpu",
    } | asked
    with pytest.raises(BadInput, match=match) as caught:
        prepare(**arguments, out=out)
    assert "\n" not in str(caught.value)
    here = [t for t in out.values() if isinstance(t, torch.Tensor) and not t.is_meta]
    assert here
    for tensor in here:
        assert bool((tensor.contiguous().view(torch.uint8) == POISON).all())


@pytest.mark.parametrize("fault", BAD_WEIGHTS)
def test_bad_weights_are_refused_and_nothing_is_written(fault) -> None:
    make, match = BAD_WEIGHTS[fault]
    refuse(match, poisoned(SMALL), weights=make())


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"epilogue_tile": 0}, "epilogue_tile: expected a positive multiple of 8"),
        ({"epilogue_tile": 12}, "epilogue_tile"),
        ({"epilogue_tile": "128"}, "epilogue_tile"),
        ({"hidden_alignment": (512, 64)}, "hidden_alignment: expected two positive"),
        ({"hidden_alignment": 128}, "hidden_alignment"),
        ({"shard": Shard(ep_size=3)}, "ep_size: expected a divisor of experts = 4"),
        ({"device": "meta"}, "device: expected a CPU or CUDA device"),
        ({"device": "no such"}, "device: expected one that is there"),
        ({"device": "cuda:999"}, "device: expected one that is there"),
    ],
)
def test_bad_options_are_refused_and_nothing_is_written(asked, match) -> None:
    refuse(match, poisoned(SMALL), **asked)


def replaced(name: str, change: Callable[[torch.Tensor], Any]) -> dict[str, Any]:
    out = poisoned(SMALL)
    return out | {name: change(out[name])}


@pytest.mark.parametrize(
    ("out", "match"),
    [
        (
            replaced("fc1_bias", lambda t: t.view(torch.int32)),
            r"out\['fc1_bias'\]: expected torch\.float32, found torch\.int32",
        ),
        (replaced("fc2_scales", lambda t: t[:-1]), r"out\['fc2_scales'\]: .*shape"),
        (replaced("fc2_weights", spread), r"out\['fc2_weights'\]: .*contiguous"),
        (replaced("fc2_bias", lambda t: t.to("meta")), r"out\['fc2_bias'\]: .*meta"),
        ({**poisoned(SMALL), "more": torch.zeros(0)}, "out: expected the names"),
        (
            {n: t for n, t in poisoned(SMALL).items() if n != "fc1_scales"},
            "out: expected the names",
        ),
        (
            replaced("swiglu_beta", lambda t: t) | {"swiglu_alpha": None},
            r"out\['swiglu_alpha'\]: expected a tensor, found NoneType",
        ),
    ],
)
def test_bad_buffers_are_refused_and_nothing_is_written(out, match) -> None:
    refuse(match, out)


def test_overlapping_buffers_are_refused() -> None:
    out = poisoned(SMALL)
    refuse("overlapping", out | {"swiglu_beta": out["swiglu_alpha"]})


def test_a_buffer_that_is_the_input_is_refused() -> None:
    """Sizes that agree: i = 128 lanes of h = 512 need no padding in fc1."""
    config = MoEConfig(hidden=512, intermediate=128, experts=2, top_k=1)
    weights = random_weights(config, CPU)
    before = weights.gate_up_blocks.clone()
    inside = weights.gate_up_blocks.view(2, 256, 256)
    out = poisoned(config) | {"fc1_weights": inside}
    with pytest.raises(BadInput, match=r"fc1_weights.*overlapping"):
        prepare(weights, config, WHOLE, "cpu", out=out)
    assert torch.equal(before, weights.gate_up_blocks)
