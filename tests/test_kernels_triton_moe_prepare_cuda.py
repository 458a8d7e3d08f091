"""`kernels.triton_moe.prepare` on a GPU: the bytes of the CPU, within its memory."""

from __future__ import annotations

import itertools

import pytest
import torch

from mxmoe.kernels.triton_moe.prepare import prepare
from mxmoe.kernels.trtllm_gen.bench_prepare import random_weights
from mxmoe.kernels.trtllm_gen.extra_memory import peak_extra_bytes
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Shard

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="torch sees no CUDA device here"
)

CPU = torch.device("cpu")
GPT_OSS = MoEConfig(hidden=2880, intermediate=2880, experts=8, top_k=1)
CONFIGS = [
    MoEConfig(hidden=160, intermediate=224, experts=4, top_k=1),
    MoEConfig(hidden=2880, intermediate=2880, experts=2, top_k=1),
    MoEConfig(hidden=672, intermediate=416, experts=3, top_k=1, has_bias=False),
]
# 1/3 and 1/7 are no floats: a product with them would be rounded twice.
SHARDS = [
    Shard(),
    Shard(tp_size=3, tp_rank=1),
    Shard(tp_size=7, tp_rank=6),
    Shard(tp_size=16, tp_rank=15),
]


@pytest.mark.parametrize(
    ("home", "device"), [("cpu", "cuda"), ("cuda", "cuda"), ("cuda", "cpu")]
)
def test_the_bytes_are_those_of_the_cpu(home, device) -> None:
    for config, shard in itertools.product(CONFIGS, SHARDS):
        weights = random_weights(config, CPU)
        expected = prepare(weights, config, shard, "cpu")
        placed = weights.to(home)
        found = prepare(placed, config, shard, device)
        for name, tensor in expected.items():
            where = (config.label(), shard.label(), name)
            assert torch.equal(tensor, found[name].cpu()), where
            on = "cpu" if name == "wide_scales" else device
            assert found[name].device.type == on, where
        for name, tensor in weights.tensors().items():
            assert torch.equal(tensor, placed.tensors()[name].cpu()), name


@pytest.mark.parametrize("home", ["cpu", "cuda"])
def test_extra_memory_is_an_eighth_of_the_layer_at_most(home) -> None:
    """The allocator gives out more than it is asked for."""
    device = torch.empty(0, device="cuda").device
    weights = random_weights(GPT_OSS, CPU).to(home)
    found = prepare(weights, GPT_OSS, Shard(), device)
    layer = sum(tensor.nbytes for tensor in found.values())
    del found
    peak = peak_extra_bytes(lambda: prepare(weights, GPT_OSS, Shard(), device), device)
    assert layer < peak <= 1.125 * layer
