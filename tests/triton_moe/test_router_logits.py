"""`kernels.triton_moe.router_logits`: float32 sums of exact or float32 products."""

from __future__ import annotations

import itertools

import pytest
import torch
from triton import knobs

from mxmoe.kernels.triton_moe.router_logits import router_logits
from mxmoe.kernels.triton_moe.router_logits import tile

INTERPRETED = knobs.runtime.interpret
F32, BF16 = torch.float32, torch.bfloat16
TOKENS = (0, 1, 2, 3, 5, 8, 16, 17, 33, 64, 128, 500, 2048, 8192)
SHAPES = ((4, 32), (8, 160), (32, 2880), (128, 2880), (257, 4128))
if INTERPRETED:
    TOKENS, SHAPES = (0, 1, 3, 17), ((5, 32), (20, 96))


def drawn(tokens, experts, hidden, device, x_type=F32, weight_type=F32):
    draw = torch.Generator().manual_seed(tokens + experts + hidden)
    x = torch.randn(tokens, hidden, generator=draw).to(device, x_type)
    weight = torch.randn(experts, hidden, generator=draw).to(device, weight_type)
    return x, weight, torch.randn(experts, generator=draw).to(device, weight_type)


def check(x, weight, bias) -> None:
    """h products and h + 1 sums in float32, in whatever order.

    Each rounds by at most 2**-24 of the sum of magnitudes; tensor cores truncate, which
    is twice as much.
    """
    logits = router_logits(x, weight, bias)
    assert logits.dtype == F32
    assert logits.is_contiguous()
    exact = x.double() @ weight.double().t()
    magnitude = x.double().abs() @ weight.double().abs().t()
    if bias is not None:
        exact, magnitude = exact + bias.double(), magnitude + bias.double().abs()
    allowed = magnitude * (2 * x.shape[1] + 1) * 2.0**-23
    assert (logits.double() - exact).abs().le(allowed).all()


@pytest.mark.parametrize("tokens", TOKENS)
def test_logits_are_the_sums(tokens, device) -> None:
    for experts, hidden in SHAPES:
        x, weight, bias = drawn(tokens, experts, hidden, device)
        check(x, weight, bias)
        check(x, weight, None)


@pytest.mark.parametrize("tokens", [2, 17])
def test_strides_may_be_any(tokens, device) -> None:
    x, weight, bias = drawn(2 * tokens, 40, 192, device)
    check(x[::2, ::2], weight.t().contiguous().t()[:20, ::2], bias[::2][:20])


@pytest.mark.parametrize("tokens", TOKENS)
def test_types_on_a_gpu(tokens, native) -> None:
    weight_types = (BF16, F32, torch.float16, torch.float64)
    for (experts, hidden), weight_type in itertools.product(SHAPES, weight_types):
        x, weight, bias = drawn(tokens, experts, hidden, native, BF16, weight_type)
        if weight_type == torch.float64:
            weight = weight.float().double()
        check(x, weight, bias)


@pytest.mark.parametrize("tokens", [9, 40])
def test_offsets_beyond_31_bits_on_a_gpu(tokens, native) -> None:
    stride = 2**31 // (tokens - 2)
    memory = torch.empty(tokens * stride, dtype=BF16, device=native)
    x = memory.as_strided((tokens, 96), (stride, 1))
    x.normal_()
    weight = torch.randn(8, 96, device=native).to(BF16)
    check(x, weight, None)


def test_a_tile_has_no_more_experts_than_are_padded() -> None:
    assert (16, 16, 256) == tile(17, 4, exact=True)
    assert (64, 32, 128) == tile(4096, 128, exact=True)
    assert (64, 128, 64) == tile(8192, 128, exact=True)
    assert tile(17, 128, exact=False) == tile(8192, 128, exact=False)
