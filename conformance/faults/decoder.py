"""Faults of a decoder of MXFP4 (L0)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from mxmoe.conformance.faults.fault import faults_of
from mxmoe.conformance.faults.plain import PLAIN
from mxmoe.conformance.faults.plain import Tensor
from mxmoe.conformance.faults.plain import dequantize
from mxmoe.conformance.verdict import Verdict

_decode = faults_of("L0", "test_decode_is_exact_for_every_scale_and_byte")

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


@_decode("triton-lang/triton#5197", "nibbles swapped: element 2j from the high one")
def nibble_swap() -> object:
    """Element 2j from the high nibble."""
    return _reading(blocks=swap_nibbles)


@_decode("vllm-project/compressed-tensors#538", "read as 2^(b - 125), not 2^(b - 127)")
def scale_bias_off() -> object:
    """Exponent s - 125."""
    return _reading(scales=lambda s: s + 2)


@_decode("vllm-project/vllm#35979", "read as 2^(b - 129), not 2^(b - 127)")
def scale_bias_off_low() -> object:
    """Exponent s - 129."""
    return _reading(scales=lambda s: s - 2)


@_decode("sgl-project/sglang#25519", "scale byte 134 (0x86) decodes to nan")
def scale_nan_wrong_code() -> object:
    """Byte 134 decodes to NaN."""
    return _giving(torch.nan, lambda s: s == 134)


@_decode("1CatAI/1Cat-vLLM#222", "scale bytes below 113 (2^-14) decode to 0")
def scale_subnormal_flush() -> object:
    """Bytes below 113 decode to 0."""
    return _giving(0.0, lambda s: s < 113)


@_decode("1CatAI/1Cat-vLLM#222", "values go through float16")
def decode_through_float16() -> object:
    """Values pass through float16 on their way."""

    def decode(b: Tensor, s: Tensor, dtype: torch.dtype) -> Tensor:
        return dequantize(b, s, torch.float16).to(dtype)

    return replace(PLAIN, decode=decode)


@_decode("TransformerLensOrg/TransformerLens#1713", "scale bytes read as numbers")
def scale_value_cast() -> object:
    """Byte 127 is taken as 127.0."""

    def decode(b: Tensor, s: Tensor, dtype: torch.dtype) -> Tensor:
        ones = dequantize(b, torch.full_like(s, 127), dtype).unflatten(-1, (-1, 32))
        return (ones * s.to(dtype)[..., None]).flatten(-2)

    return replace(PLAIN, decode=decode)


@_decode("ROCm/aiter#2642", "packed bytes read as float8 (E4M3)")
def fp4_pair_read_as_fp8() -> object:
    """A packed byte is decoded as E4M3."""

    def decode(b: Tensor, s: Tensor, dtype: torch.dtype) -> Tensor:
        values = b.view(torch.float8_e4m3fn).to(dtype).repeat_interleave(2, dim=-1)
        return (values * torch.exp2(s.to(dtype) - 127)[..., None]).flatten(-2)

    return replace(PLAIN, decode=decode)


@_decode("pytorch/ao#1104", "scale byte 0 (0x00) read as 2^-126, not 2^-127")
def scale_byte_zero_off_by_two() -> object:
    """Byte 0 decodes as byte 1, to 2**-126."""
    return _reading(scales=lambda s: s.clamp(min=1))


@_decode("", "found other values than in one row", "wrong: the last of", "all zero")
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
