"""`kernels.trtllm_gen.prepare` on a GPU: the bytes of the CPU, within its memory."""

from __future__ import annotations

import itertools

import pytest
import torch

from mxmoe.kernels.trtllm_gen.bench_prepare import random_weights
from mxmoe.kernels.trtllm_gen.engine_loop import engine_loop
from mxmoe.kernels.trtllm_gen.extra_memory import peak_extra_bytes
from mxmoe.kernels.trtllm_gen.mover import VIEWS
from mxmoe.kernels.trtllm_gen.mover import Mover
from mxmoe.kernels.trtllm_gen.prepare import prepare
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Shard

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="torch sees no CUDA device here"
)

CPU = torch.device("cpu")
CONFIGS = [
    MoEConfig(hidden=160, intermediate=224, experts=4, top_k=1),
    MoEConfig(hidden=2880, intermediate=2880, experts=2, top_k=1),
    MoEConfig(hidden=672, intermediate=416, experts=3, top_k=1, has_bias=False),
]
SHARDS = [
    Shard(),
    Shard(tp_size=3, tp_rank=1),
    Shard(tp_size=7, tp_rank=6),
    Shard(tp_size=8, tp_rank=7),
]


@pytest.fixture(params=["views", "triton"])
def mover(request: pytest.FixtureRequest) -> Mover:
    if request.param == "views":
        return VIEWS
    module = pytest.importorskip(
        "mxmoe.kernels.trtllm_gen.triton_mover", reason="no Triton here"
    )
    return module.TRITON


def cuda() -> torch.device:
    return torch.empty(0, device="cuda").device


@pytest.mark.parametrize("home", ["cpu", "cuda"])
def test_the_bytes_are_those_of_the_cpu(mover, home) -> None:
    """tp 3 and 7 too: there 1/tp is no float, and a product would be rounded twice."""
    for config, shard, tile in itertools.product(CONFIGS, SHARDS, (128, 64)):
        weights = random_weights(config, CPU)
        expected = prepare(weights, config, shard, "cpu", epilogue_tile=tile)
        placed = weights.to(home)
        out = {name: torch.empty_like(t, device="cuda") for name, t in expected.items()}
        for tensor in out.values():
            tensor.view(torch.uint8).fill_(0xAB)
        prepare(placed, config, shard, "cuda", out=out, epilogue_tile=tile, mover=mover)
        for name, tensor in expected.items():
            where = (config.label(), shard.label(), tile, name)
            assert torch.equal(tensor, out[name].cpu()), where
        for name, tensor in weights.tensors().items():
            assert torch.equal(tensor, placed.tensors()[name].cpu()), name


def test_the_engine_loop_prepares_the_same_bytes() -> None:
    config, shard = CONFIGS[0], SHARDS[1]
    weights = random_weights(config, cuda())
    expected = engine_loop(weights, config, shard)
    found = prepare(weights, config, shard, "cuda")
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


@pytest.mark.parametrize("home", ["cpu", "cuda"])
def test_extra_memory_is_half_of_the_layer_at_most(mover, home) -> None:
    """Of gpt-oss shape, with experts enough to cross from the CPU in pieces."""
    config = MoEConfig(hidden=2880, intermediate=2880, experts=8, top_k=1)
    weights = random_weights(config, torch.device(home))
    out = prepare(weights, config, Shard(), "cuda", mover=mover)
    layer = sum(tensor.nbytes for tensor in out.values())
    extra = peak_extra_bytes(
        lambda: prepare(weights, config, Shard(), "cuda", out=out, mover=mover), cuda()
    )
    assert extra <= 0.5 * layer
