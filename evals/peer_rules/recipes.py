"""How each project draws the data of its test.

Sizes are upstream's, with two cuts that keep what an output looks like:

* fewer experts, all of which are visited, and fewer tokens;
* where the matrices are 2880 or 3072 wide, a quarter of it (704, 768), with weights
  twice as large: a sum over K/4 products then spreads as one over K does.

Fewer columns make a fault in one column or K block a larger part of the output, so
the cuts help a rule to see it. A test that is given the routing leaves the
candidate's own out (`logits` is None).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from mxmoe.conformance.cases.designed import CaseData
from mxmoe.evals.peer_rules.layer import Layer
from mxmoe.reference.formats import encode
from mxmoe.reference.routing import route
from mxmoe.reference.types import BLOCK
from mxmoe.reference.types import BLOCK_BYTES
from mxmoe.reference.types import SILU
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig

Tensor = torch.Tensor
Recipe = Callable[[int], Layer]

# Upstream's width / ours is 4, so that sums spread half as wide: see above.
_QUARTER = 2.0


def flashinfer_unified(seed: int) -> Layer:
    """0.1 * normal throughout, two experts with weight 1/2 each, silu, no bias."""
    draw = Normal(seed)
    config = MoEConfig(
        hidden=1024,
        intermediate=512,
        experts=8,
        top_k=2,
        activation=SILU,
        has_bias=False,
    )
    # Token t visits t and t + 1, with equal weights.
    at = (torch.arange(8)[:, None] + torch.arange(2)) % 8
    logits = torch.full((8, 8), -20.0).scatter_(1, at, 1.0)
    w1, w2 = draw(8, 1024, 1024) * 0.1, draw(8, 1024, 512) * 0.1
    x = draw(8, 1024) * 0.1
    made = layer_of("flashinfer_unified", config, x, logits, w1=w1, w2=w2)
    return replace(made, logits=None)


def flashinfer_fp4_moe(seed: int) -> Layer:
    """x 2 * normal, weights normal / sqrt(K), silu, no bias."""
    draw = Normal(seed)
    config = MoEConfig(
        hidden=1024,
        intermediate=384,
        experts=5,
        top_k=4,
        activation=SILU,
        has_bias=False,
    )
    return layer_of(
        "flashinfer_fp4_moe",
        config,
        draw(64, 1024) * 2,
        draw(64, 5).bfloat16().float(),
        w1=draw(5, 768, 1024) / 1024**0.5,
        w2=draw(5, 1024, 384) / 384**0.5,
    )


def flashinfer_fuzz(seed: int) -> Layer:
    """Normal numbers, three of four replaced by 0; skewed logits; silu, no bias."""
    draw = Normal(seed)
    config = MoEConfig(
        hidden=512,
        intermediate=512,
        experts=8,
        top_k=4,
        activation=SILU,
        has_bias=False,
    )

    def sparse(*shape: int) -> Tensor:
        return draw(*shape) * (draw.uniform(*shape) >= 0.75)

    return layer_of(
        "flashinfer_fuzz",
        config,
        sparse(128, 512),
        (draw(128, 8) + torch.linspace(8, -8, 8)).bfloat16().float(),
        w1=sparse(8, 1024, 512),
        w2=sparse(8, 512, 512),
    )


def vllm_ocp_mx(seed: int) -> Layer:
    """Normal weights, biases 10 * normal, logits uniform in [0, 1)."""
    draw = Normal(seed)
    config = MoEConfig(hidden=768, intermediate=768, experts=5, top_k=4)
    return layer_of(
        "vllm_ocp_mx",
        config,
        draw(128, 768),
        draw.uniform(128, 5),
        w1=draw(5, 1536, 768) * _QUARTER,
        w2=draw(5, 768, 768) * _QUARTER,
        b1=draw(5, 1536) * 10,
        b2=draw(5, 768) * 10,
    )


def vllm_gpt_oss_triton(seed: int) -> Layer:
    """Normal weights and biases, two tokens whose logits are next to each other."""
    draw = Normal(seed)
    config = MoEConfig(hidden=704, intermediate=704, experts=5, top_k=4)
    # Neighbouring bfloat16 numbers: from 2 on, and from -32 down.
    bits = torch.stack([16384 + 512 * t + draw.permutation(5) for t in range(2)])
    sign = torch.tensor([[1.0], [-1.0]])
    return layer_of(
        "vllm_gpt_oss_triton",
        config,
        draw(2, 704),
        sign * bits.to(torch.int16).view(torch.bfloat16).float(),
        w1=draw(5, 1408, 704) * _QUARTER,
        w2=draw(5, 704, 704) * _QUARTER,
        b1=draw(5, 1408),
        b2=draw(5, 704),
    )


def triton_kernels_matmul(seed: int) -> Layer:
    """Normal numbers; each 32 x 32 block has its largest value along the diagonal."""
    draw = Normal(seed)
    config = MoEConfig(hidden=832, intermediate=416, experts=5, top_k=4)

    def normalised(*shape: int) -> Tensor:
        values = draw(*shape)
        blocks = values.unflatten(-1, (-1, BLOCK)).unflatten(-3, (-1, BLOCK))
        largest = blocks.abs().amax(dim=(-1, -3), keepdim=True)
        signs = torch.where(draw.uniform(*blocks.shape) < 0.5, -1.0, 1.0)
        diagonal = torch.eye(BLOCK, dtype=torch.bool)[:, None, :]
        return torch.where(diagonal, signs * largest, blocks).reshape(values.shape)

    return layer_of(
        "triton_kernels_matmul",
        config,
        normalised(64, 832),
        draw(64, 5),
        w1=normalised(5, 832, 832),
        w2=normalised(5, 832, 416),
        b1=draw(5, 832),
        b2=draw(5, 832),
    )


def tensorrt_llm_w4a16(seed: int) -> Layer:
    """Any blocks, scale bytes 118 to 122, biases normal."""
    draw = Normal(seed)
    config = MoEConfig(hidden=704, intermediate=704, experts=5, top_k=4)
    # One more on each byte: weights twice as large.
    low, high = 118 + 1, 122 + 1
    return layer_of_bytes(
        "tensorrt_llm_w4a16",
        config,
        draw(32, 704),
        draw(32, 5),
        draw,
        scale_bytes=(low, high),
        biases=1.0,
    )


def tensorrt_llm_w4a8(seed: int) -> Layer:
    """Gate and down weights 0.1 * normal, up weights normal, biases 0.1 * normal."""
    draw = Normal(seed)
    config = MoEConfig(hidden=704, intermediate=704, experts=5, top_k=4)
    w1 = draw(5, 1408, 704) * _QUARTER
    w1[:, 0::2] *= 0.1
    return layer_of(
        "tensorrt_llm_w4a8",
        config,
        draw(32, 704),
        draw(32, 5),
        w1=w1,
        w2=draw(5, 704, 704) * (0.1 * _QUARTER),
        b1=draw(5, 1408) * 0.1,
        b2=draw(5, 704) * 0.1,
    )


def sglang_aiter(seed: int) -> Layer:
    """Any blocks, scale bytes 125 to 129, uniform routing weights, silu, no bias."""
    draw = Normal(seed)
    config = MoEConfig(
        hidden=256,
        intermediate=128,
        experts=8,
        top_k=2,
        activation=SILU,
        has_bias=False,
    )
    ids = torch.stack([draw.permutation(8)[:2] for _ in range(16)])
    # Weights u / sum u are the softmax of log u.
    logits = torch.full((16, 8), -60.0).scatter_(1, ids, draw.uniform(16, 2).log())
    made = layer_of_bytes(
        "sglang_aiter",
        config,
        draw(16, 256),
        logits,
        draw,
        scale_bytes=(125, 129),
        biases=None,
    )
    return replace(made, logits=None)


def flashinfer_bench_moe(seed: int) -> Layer:
    """Assumed: normal activations, weights normal / sqrt(K), biases 0.1 * normal.

    Upstream takes recorded tensors, or normal ones for what was not recorded.
    """
    draw = Normal(seed)
    config = MoEConfig(hidden=512, intermediate=512, experts=5, top_k=4)
    return layer_of(
        "flashinfer_bench_moe",
        config,
        draw(32, 512),
        draw(32, 5),
        w1=draw(5, 1024, 512) / 512**0.5,
        w2=draw(5, 512, 512) / 512**0.5,
        b1=draw(5, 1024) * 0.1,
        b2=draw(5, 512) * 0.1,
    )


class Normal:
    """Draws from one stream."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng((seed, 13))

    def __call__(self, *shape: int) -> Tensor:
        """Standard normal float32 numbers."""
        return torch.from_numpy(self._random.standard_normal(shape, dtype=np.float32))

    def uniform(self, *shape: int) -> Tensor:
        """From 0 to 1."""
        return torch.from_numpy(self._random.random(shape, dtype=np.float32))

    def permutation(self, n: int) -> Tensor:
        """0 to n - 1 in some order."""
        return torch.from_numpy(self._random.permutation(n))

    def bytes(self, low: int, high: int, *shape: int) -> Tensor:
        """uint8 from `low` to `high`, both included."""
        drawn = self._random.integers(low, high + 1, shape, dtype=np.uint8)
        return torch.from_numpy(drawn)


def layer_of(
    name: str,
    config: MoEConfig,
    x: Tensor,
    logits: Tensor,
    *,
    w1: Tensor,
    w2: Tensor,
    b1: Tensor | None = None,
    b2: Tensor | None = None,
) -> Layer:
    """Weights [e, 2i, h] (rows gate, up, gate, ...) and [e, h, i] to MXFP4."""
    w1, w2 = w1.bfloat16().float(), w2.bfloat16().float()
    w1_blocks, w1_scales = encode(w1, "ceil")
    w2_blocks, w2_scales = encode(w2, "ceil")
    weights = ExpertWeights(
        gate_up_blocks=w1_blocks,
        gate_up_scales=w1_scales,
        gate_up_bias=None if b1 is None else b1.bfloat16(),
        down_blocks=w2_blocks,
        down_scales=w2_scales,
        down_bias=None if b2 is None else b2.bfloat16(),
        router_weight=torch.zeros(config.experts, config.hidden),
        router_bias=torch.zeros(config.experts) if config.has_bias else None,
    )
    return Layer(
        name=name,
        data=_data(config, weights, x, logits),
        logits=logits,
        unquantised=(w1, w2),
    )


def layer_of_bytes(
    name: str,
    config: MoEConfig,
    x: Tensor,
    logits: Tensor,
    draw: Normal,
    *,
    scale_bytes: tuple[int, int],
    biases: float | None,
) -> Layer:
    """Random blocks and scale bytes, biases `biases` * normal or none."""
    e, h, i = config.experts, config.hidden, config.intermediate
    std = biases or 0.0
    weights = ExpertWeights(
        gate_up_blocks=draw.bytes(0, 255, e, 2 * i, h // BLOCK, BLOCK_BYTES),
        gate_up_scales=draw.bytes(*scale_bytes, e, 2 * i, h // BLOCK),
        gate_up_bias=(draw(e, 2 * i) * std).bfloat16() if biases else None,
        down_blocks=draw.bytes(0, 255, e, h, i // BLOCK, BLOCK_BYTES),
        down_scales=draw.bytes(*scale_bytes, e, h, i // BLOCK),
        down_bias=(draw(e, h) * std).bfloat16() if biases else None,
        router_weight=torch.zeros(e, h),
        router_bias=torch.zeros(e) if biases else None,
    )
    return Layer(name=name, data=_data(config, weights, x, logits), logits=logits)


def _data(
    config: MoEConfig, weights: ExpertWeights, x: Tensor, logits: Tensor
) -> CaseData:
    routing = route(logits, config.top_k)
    return CaseData(
        config=config,
        weights=weights,
        hidden_states=x.bfloat16(),
        routing=routing,
        experts_reached=routing.ids.unique().numel(),
    )
