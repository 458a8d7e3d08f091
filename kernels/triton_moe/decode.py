"""MXFP4 codes to bfloat16 in registers: shifts, masks and one exact multiplication.

A half word holds four E2M1 codes (sign, two exponent bits, mantissa bit), spread so
that a shift leaves one of them where bfloat16 has its sign, its two low exponent bits
and its top mantissa bit. Read as bfloat16 such a pattern is

    code * 2**-126,

also for the code 0.5, a subnormal in both formats: the exponent biases are 1 and 127.
One multiplication by 2**126 * scale = 2**(s - 1), s the biased exponent, makes the
weight. It is exact: a weight has two significant bits, and bfloat16 has subnormals.
2**(s - 1) is a bfloat16 for s <= 128; checkpoints of gpt-oss stay below. Layers with
larger scales are computed with WIDE_SCALES: two multiplications.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton import knobs

# The interpreter knows no inline assembly and corrupts bfloat16: float32 there.
INTERPRETED = tl.constexpr(knobs.runtime.interpret)

# Bits 15, 8, 7, 6 of both half words.
_PLACES = tl.constexpr(0x81C081C0)
# 1 << 7, the lowest exponent bit of bfloat16, in both half words; 126 of it.
_EXPONENT_ONE = tl.constexpr(0x00800080)
_EXPONENT_126 = tl.constexpr(0x3F003F00)
_ONE = tl.constexpr(0x3F803F80)
_NAN = tl.constexpr(0x7FC07FC0)
# The largest biased exponent s for which 2**(s - 1) is a bfloat16.
_LARGEST = tl.constexpr(128)


@triton.jit
def decode_tiles(
    words,  # uint32 [N, K * 512]: N x K tiles of 64 rows x 64 columns
    scales,  # uint32 [N, K * 32]: the biased exponents of row 16g + 8h + r, h 0 and 1
    N: tl.constexpr,  # noqa: N803
    K: tl.constexpr,  # noqa: N803
    WIDE_SCALES: tl.constexpr,  # noqa: N803
):
    """The weights [64 N, 64 K], row-major in meaning and moved between no threads."""
    # n k g r c h m: row 64n + 16g + 8h + r, column 64k + 32m + 16s + 8u + 2c + v.
    words = tl.reshape(words, (N, K, 4, 8, 4, 2, 2))
    scales = tl.reshape(scales, (N, K, 4, 8, 1, 1, 1))
    byte = 2 * tl.arange(0, 2)[:, None] + tl.arange(0, 2)[None, :]
    byte = tl.reshape(byte, (1, 1, 1, 1, 1, 2, 2)).to(tl.uint32)
    factors = (scales >> (8 * byte)) & 0xFF
    first, second = _factors(factors, WIDE_SCALES)
    first = tl.broadcast_to(first, (N, K, 4, 8, 4, 2, 2))
    second = tl.broadcast_to(second, (N, K, 4, 8, 4, 2, 2))
    s0u0 = _weights(words & _PLACES, first, second, WIDE_SCALES)
    s0u1 = _weights((words << 3) & _PLACES, first, second, WIDE_SCALES)
    s1u0 = _weights((words << 6) & _PLACES, first, second, WIDE_SCALES)
    last = (words << 1) & 0x80008000
    last |= (words >> 3) & 0x01800180
    last |= (words >> 7) & 0x00400040
    s1u1 = _weights(last, first, second, WIDE_SCALES)
    joined = tl.join(tl.join(s0u0, s0u1), tl.join(s1u0, s1u1))
    # n k g r c h m v u s -> n g h r, k m s u c v
    ordered = tl.permute(joined, (0, 2, 5, 3, 1, 6, 9, 8, 4, 7))
    return tl.reshape(ordered, (64 * N, 64 * K))


@triton.jit
def _factors(scales, WIDE_SCALES: tl.constexpr):  # noqa: N803
    """2**(s - 1) as one factor or, beyond 2**127, as two; twice in a word."""
    if WIDE_SCALES:
        excess = tl.where(scales > _LARGEST, scales - _LARGEST, 0)
        second = tl.where(scales == 255, _NAN, excess * _EXPONENT_ONE + _ONE)
        return (scales - excess) * _EXPONENT_ONE + _EXPONENT_126, second
    return scales * _EXPONENT_ONE + _EXPONENT_126, scales


@triton.jit
def _weights(patterns, first, second, WIDE_SCALES: tl.constexpr):  # noqa: N803
    """The two bfloat16 of each word, times the factors: [..., 2]."""
    if INTERPRETED:
        low = _float32(patterns << 16) * _float32(first << 16)
        high = _float32(patterns & 0xFFFF0000) * _float32(first & 0xFFFF0000)
        if WIDE_SCALES:
            low *= _float32(second << 16)
            high *= _float32(second & 0xFFFF0000)
    elif WIDE_SCALES:
        low, high = tl.inline_asm_elementwise(
            """{
            .reg .b32 zero, product;
            mov.b32 zero, 0x80008000;
            fma.rn.bf16x2 product, $2, $3, zero;
            fma.rn.bf16x2 product, product, $4, zero;
            mov.b32 {$0, $1}, product;
            }""",
            "=h,=h,r,r,r",
            [patterns, first, second],
            dtype=(tl.bfloat16, tl.bfloat16),
            is_pure=True,
            pack=1,
        )
    else:
        # Adding -0 keeps every product, the sign of zero too; sm_80 has no mul.bf16x2.
        low, high = tl.inline_asm_elementwise(
            """{
            .reg .b32 zero, product;
            mov.b32 zero, 0x80008000;
            fma.rn.bf16x2 product, $2, $3, zero;
            mov.b32 {$0, $1}, product;
            }""",
            "=h,=h,r,r",
            [patterns, first],
            dtype=(tl.bfloat16, tl.bfloat16),
            is_pure=True,
            pack=1,
        )
    return tl.join(low, high)


@triton.jit
def _float32(bits):
    return bits.to(tl.uint32).to(tl.float32, bitcast=True)
