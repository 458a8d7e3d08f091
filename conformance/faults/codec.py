"""Faults of the codec alone (L0)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from mxmoe.conformance.faults.fault import faults_of
from mxmoe.conformance.faults.plain import PLAIN
from mxmoe.conformance.faults.plain import Tensor
from mxmoe.conformance.faults.plain import dequantize
from mxmoe.conformance.verdict import Verdict
from mxmoe.reference.formats import e2m1
from mxmoe.reference.formats import encode
from mxmoe.reference.formats.nibbles import pack_nibbles

_decode = faults_of("L0", "test_decode_is_exact_for_every_scale_and_byte")
_encode = faults_of("L0", "test_encode_follows_the_named_rule")

Edit = Callable[[Tensor], Tensor]


def swap_nibbles(x: Tensor) -> Tensor:
    """The high nibble first."""
    return (x >> 4) | (x << 4)


def _reading(blocks: Edit = lambda x: x, scales: Edit = lambda x: x) -> object:
    def decode(b: Tensor, s: Tensor, dtype: torch.dtype) -> Tensor:
        return dequantize(blocks(b), scales(s), dtype)

    return replace(PLAIN, decode=decode)


def _giving(value: float, where: Edit) -> object:
    def decode(b: Tensor, s: Tensor, dtype: torch.dtype) -> Tensor:
        values = dequantize(b, s, dtype)
        return values.masked_fill(where(s).repeat_interleave(32, -1), value)

    return replace(PLAIN, decode=decode)


@_decode("triton-lang/triton#5197")
def nibble_swap() -> object:
    """Element 2j from the high nibble."""
    return _reading(blocks=swap_nibbles)


@_decode("vllm-project/compressed-tensors#538")
def scale_bias_off() -> object:
    """Exponent s - 125."""
    return _reading(scales=lambda s: s + 2)


@_decode("sgl-project/sglang#25519")
def scale_nan_wrong_code() -> object:
    """Byte 134 decodes to NaN."""
    return _giving(torch.nan, lambda s: s == 134)


@_decode("1CatAI/1Cat-vLLM#222")
def scale_subnormal_flush() -> object:
    """Bytes below 113 decode to 0."""
    return _giving(0.0, lambda s: s < 113)


@_decode("1CatAI/1Cat-vLLM#222")
def decode_through_float16() -> object:
    """Values pass through float16 on their way."""

    def decode(b: Tensor, s: Tensor, dtype: torch.dtype) -> Tensor:
        return dequantize(b, s, torch.float16).to(dtype)

    return replace(PLAIN, decode=decode)


@_decode("TransformerLensOrg/TransformerLens#1713")
def scale_value_cast() -> object:
    """Byte 127 is taken as 127.0."""

    def decode(b: Tensor, s: Tensor, dtype: torch.dtype) -> Tensor:
        ones = dequantize(b, torch.full_like(s, 127), dtype).unflatten(-1, (-1, 32))
        return (ones * s.to(dtype)[..., None]).flatten(-2)

    return replace(PLAIN, decode=decode)


@_decode("ROCm/aiter#2642")
def fp4_pair_read_as_fp8() -> object:
    """A packed byte is decoded as E4M3."""

    def decode(b: Tensor, s: Tensor, dtype: torch.dtype) -> Tensor:
        values = b.view(torch.float8_e4m3fn).to(dtype).repeat_interleave(2, dim=-1)
        return (values * torch.exp2(s.to(dtype) - 127)[..., None]).flatten(-2)

    return replace(PLAIN, decode=decode)


@_decode("pytorch/ao#1104", "code 1, scale 0x00")
def scale_byte_zero_off_by_two() -> object:
    """Byte 0 decodes as byte 1, to 2**-126."""
    return _reading(scales=lambda s: s.clamp(min=1))


@_decode("", "found other values than in one row")
def odd_block_count() -> object:
    """Blocks are decoded in pairs: the last of an odd number is left out."""

    def decode(b: Tensor, s: Tensor, dtype: torch.dtype) -> Tensor:
        values = dequantize(b, s, dtype)
        values[..., s.shape[-1] // 2 * 64 :] = 0
        return values

    return replace(PLAIN, decode=decode)


@_decode("", "decode returned NoneType")
def decode_returns_nothing() -> object:
    """The result is written elsewhere."""
    return replace(PLAIN, decode=lambda b, s, dtype: None)


@_decode("", "RuntimeError: no kernel", verdict=Verdict.CRASH)
def decode_raises() -> object:
    """There is no kernel for this shape."""

    def decode(b: Tensor, s: Tensor, dtype: torch.dtype) -> Tensor:
        raise RuntimeError("no kernel")

    return replace(PLAIN, decode=decode)


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


@_encode("ROCm/aiter#3992")
def e2m1_ties_away() -> object:
    """Midpoints round away from zero."""
    return _rounding(_code_from(e2m1.MIDPOINTS))


@_encode()
def e2m1_truncated() -> object:
    """Elements are cut off instead of rounded."""
    return _rounding(_code_from(e2m1.VALUES[1:8]))


@_encode("ROCm/aiter#3212")
def quant_scale_mode_swap() -> object:
    """Rules floor and even exchanged."""
    other = {"floor": "even", "even": "floor", "ceil": "ceil"}
    return _scaling(lambda x, rule: encode(x, other[rule])[1])


@_encode("vllm-project/vllm#43557")
def quant_scale_floor_of_ratio() -> object:
    """Scale byte floor(log2(amax / 6)) + 127."""
    return _scaling(lambda x, rule: _as_byte((_amax(x) / 6).log2().floor()))


@_encode("pytorch/ao#4725")
def quant_double_round() -> object:
    """amax is rounded to bfloat16 before its exponent is taken."""
    return _scaling(lambda x, rule: encode(x.bfloat16().float(), rule)[1])


@_encode("vllm-project/compressed-tensors#630")
def quant_float32_log2() -> object:
    """log2 in float32 rounds up just below a power of two."""

    def scales(x: Tensor, rule: str) -> Tensor:
        if rule == "floor":
            return _as_byte(_amax(x).log2().floor() - 2)
        return encode(x, rule)[1]

    return _scaling(scales)


@_encode("", "rows of three blocks")
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
