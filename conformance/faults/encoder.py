"""Faults of an encoder to MXFP4 (L0)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from mxmoe.conformance.faults.fault import faults_of
from mxmoe.conformance.faults.plain import PLAIN
from mxmoe.conformance.faults.plain import Tensor
from mxmoe.reference.formats import e2m1
from mxmoe.reference.formats import encode
from mxmoe.reference.formats.nibbles import pack_nibbles

_encode = faults_of("L0", "test_encode_follows_the_named_rule")

Edit = Callable[[Tensor], Tensor]


def _blocks(x: Tensor, scales: Tensor, rounding: Edit = e2m1.round_to_code) -> Tensor:
    groups = x.double().unflatten(-1, (-1, 32)).nan_to_num(0)
    return pack_nibbles(rounding(torch.ldexp(groups, 127 - scales.int()[..., None])))


def _rounding(rounding: Edit) -> object:
    def encoder(x: Tensor, rule: str) -> tuple[Tensor, Tensor]:
        _, scales = encode(x, rule)
        return _blocks(x, scales, rounding), scales

    return replace(PLAIN, encode=encoder)


def _scaling(scales: Callable[[Tensor, str], Tensor]) -> object:
    def encoder(x: Tensor, rule: str) -> tuple[Tensor, Tensor]:
        chosen = scales(x, rule)
        return _blocks(x, chosen), chosen

    return replace(PLAIN, encode=encoder)


def _amax(x: Tensor) -> Tensor:
    return x.float().unflatten(-1, (-1, 32)).abs().amax(-1)


def _as_byte(exponent: Tensor) -> Tensor:
    return (exponent + 127).nan_to_num(0, 254, 0).clamp(0, 254).to(torch.uint8)


def _code_from(thresholds: tuple[float, ...]) -> Edit:
    def rounding(values: Tensor) -> Tensor:
        passed = values.abs()[..., None] >= torch.tensor(thresholds).double()
        return (passed.sum(-1) + 8 * values.signbit()).to(torch.uint8)

    return rounding


@_encode("ROCm/aiter#3992", "midpoints away from 0, not to even")
def e2m1_ties_away() -> object:
    """Midpoints round away from zero."""
    return _rounding(_code_from(e2m1.MIDPOINTS))


@_encode("", "cut off towards 0, not rounded")
def e2m1_truncated() -> object:
    """Elements are cut off instead of rounded."""
    return _rounding(_code_from(e2m1.VALUES[1:8]))


@_encode("ROCm/aiter#3212", "scale rule even in place of floor")
def quant_scale_mode_swap() -> object:
    """Rules floor and even exchanged."""
    other = {"floor": "even", "even": "floor", "ceil": "ceil"}
    return _scaling(lambda x, rule: encode(x, other[rule])[1])


@_encode("vllm-project/vllm#43557", "scale of floor(log2(largest / 6))")
def quant_scale_floor_of_ratio() -> object:
    """Scale byte floor(log2(amax / 6)) + 127."""
    return _scaling(lambda x, rule: _as_byte((_amax(x) / 6).log2().floor()))


@_encode("pytorch/ao#4725", "rounded to bfloat16 before its exponent is taken")
def quant_double_round() -> object:
    """amax is rounded to bfloat16 before its exponent is taken."""
    return _scaling(lambda x, rule: encode(x.bfloat16().float(), rule)[1])


@_encode(
    "vllm-project/compressed-tensors#630",
    "log2 in float32, which rounds up below a power of two",
)
def quant_float32_log2() -> object:
    """log2 in float32 rounds up just below a power of two."""

    def scales(x: Tensor, rule: str) -> Tensor:
        if rule == "floor":
            return _as_byte(_amax(x).log2().floor() - 2)
        return encode(x, rule)[1]

    return _scaling(scales)


@_encode("vllm-project/compressed-tensors#630", "log2(largest / 4) cut towards 0")
def quant_log2_trunc() -> object:
    """log2 of the ratio is cut off toward zero: one high below 1."""

    def scales(x: Tensor, rule: str) -> Tensor:
        if rule == "floor":
            return _as_byte((_amax(x).log2() - 2).trunc())
        return encode(x, rule)[1]

    return _scaling(scales)


@_encode("ROCm/aiter#3212", "scale rule ceil in place of floor")
def quant_scale_ceil_for_floor() -> object:
    """Rule ceil where floor is asked for."""
    return _scaling(lambda x, rule: encode(x, "ceil" if rule == "floor" else rule)[1])


@_encode(
    "sgl-project/sglang#25733", "top bit of the mantissa", "leaks into the scale byte"
)
def scale_not_pow2_packed() -> object:
    """The top bit of the mantissa leaks into the packed biased exponent."""

    def scales(x: Tensor, rule: str) -> Tensor:
        leaked = (_amax(x).view(torch.int32) >> 22 & 1).to(torch.uint8)
        return encode(x, rule)[1] | leaked

    return _scaling(scales)


@_encode("", "one scale for all blocks of a row: that of the largest")
def one_scale_a_row() -> object:
    """All blocks of a row share the scale of the largest."""
    return _scaling(
        lambda x, rule: encode(x, rule)[1].amax(-1, keepdim=True).expand_as(_amax(x))
    )


@_encode("", "expected (blocks, scales)")
def encode_returns_nothing() -> object:
    """The result is written elsewhere."""
    return replace(PLAIN, encode=lambda x, rule: None)


@_encode("", "expected (blocks, scales)")
def encode_in_another_shape() -> object:
    """Codes come unpacked, one a byte."""

    def encoder(x: Tensor, rule: str) -> tuple[Tensor, Tensor]:
        blocks, scales = encode(x, rule)
        return blocks.repeat_interleave(2, dim=-1), scales

    return replace(PLAIN, encode=encoder)
