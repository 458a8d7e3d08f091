"""`mxmoe.reference.formats`: decoding, over the whole space of bytes."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from mxmoe.reference.formats import decode
from mxmoe.reference.formats import decode_arithmetic
from mxmoe.reference.formats import decode_table
from mxmoe.reference.formats import e2m1
from mxmoe.reference.formats import e8m0
from mxmoe.reference.formats import pack_nibbles
from mxmoe.reference.formats import unpack_nibbles

BYTES = torch.arange(256, dtype=torch.uint8)
CODES = torch.arange(16, dtype=torch.uint8)
INTEGERS = {
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}

Decoder = Callable[[torch.Tensor, torch.Tensor, torch.dtype], torch.Tensor]
decoders = pytest.mark.parametrize("decoder", [decode_table, decode_arithmetic])


def all_decodes(decoder: Decoder, dtype: torch.dtype) -> torch.Tensor:
    """Every byte under every scale byte: [scale, byte, low|high]."""
    blocks = BYTES.view(1, 16, 16).expand(256, -1, -1)
    scales = BYTES[:, None].expand(-1, 16)
    return decoder(blocks, scales, dtype).view(256, 256, 2)


def bits(values: torch.Tensor) -> torch.Tensor:
    """The bit patterns, with one pattern for every NaN."""
    return values.masked_fill(values.isnan(), math.nan).view(INTEGERS[values.dtype])


def golden_values(array: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    """Bit patterns of the golden file as values of `dtype`."""
    signed = array.view(f"i{array.itemsize}")
    return torch.from_numpy(signed.copy()).view(dtype)


def one_block(code: int, scale: int, dtype: torch.dtype = torch.float64) -> float:
    """Element 0 of a block of 32 equal codes, as every element must be."""
    blocks = torch.full((1, 16), code | code << 4, dtype=torch.uint8)
    values = decode(blocks, torch.tensor([scale], dtype=torch.uint8), dtype)
    assert 1 == len(bits(values).unique())
    return values[0].item()


@decoders
def test_decode_is_ml_dtypes_bit_for_bit_on_all_bytes(decoder, golden) -> None:
    expected = golden_values(golden["deq_mldtypes_f32_bits"], torch.float32)
    actual = all_decodes(decoder, torch.float32)
    assert torch.equal(bits(expected), bits(actual))


@decoders
@pytest.mark.parametrize("word", ["f32", "bf16"])
def test_decode_is_gpt_oss_bit_for_bit_except_at_scale_255(
    decoder, word, golden
) -> None:
    """gpt_oss uses ldexp, which gives Inf where OCP MX asks for NaN."""
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[word]
    expected = golden_values(golden[f"deq_gptoss_{word}_bits"], dtype)
    differs = bits(expected) != bits(all_decodes(decoder, dtype))
    assert [255] == differs.flatten(1).any(dim=1).nonzero().flatten().tolist()


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_the_two_decoders_agree_bit_for_bit(dtype) -> None:
    expected = all_decodes(decode_table, dtype)
    assert torch.equal(bits(expected), bits(all_decodes(decode_arithmetic, dtype)))


@decoders
def test_float64_is_exact_on_all_bytes(decoder) -> None:
    """By scalar ldexp over the E2M1 values as the OCP MX specification prints them."""
    magnitudes = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
    printed = magnitudes + tuple(-m for m in magnitudes)
    expected = torch.tensor(
        [
            [(math.ldexp(printed[b & 15], s), math.ldexp(printed[b >> 4], s))]
            for s in range(-127, 128)
            for b in range(256)
        ],
        dtype=torch.float64,
    ).view(255, 256, 2)
    actual = all_decodes(decoder, torch.float64)
    assert torch.equal(bits(expected), bits(actual[:255]))
    assert actual[255].isnan().all()


@decoders
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_float32_and_bfloat16_are_exact_for_bytes_0_to_252(decoder, dtype) -> None:
    exact = all_decodes(decoder, torch.float64)[:253]
    rounded = all_decodes(decoder, dtype)[:253]
    assert torch.equal(bits(exact), bits(rounded.double()))


def test_scale_byte_0_is_two_to_the_minus_127() -> None:
    """Not 0.0, which decoders give that build float32 bits as ``byte << 23``."""
    assert 2.0**-127 == one_block(code=2, scale=0, dtype=torch.float32)
    assert 2.0**-128 == one_block(code=1, scale=0, dtype=torch.bfloat16)


@pytest.mark.parametrize(
    ("scale", "first_infinite_code"), [(0xFC, 8), (0xFD, 6), (0xFE, 4)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_largest_scales_overflow_from_a_known_code(
    scale, first_infinite_code, dtype
) -> None:
    """2**126 * 4 and 2**127 * 2 pass the range; nothing clamps them."""
    values = [one_block(code, scale, dtype) for code in range(8)]
    finite = [code for code in range(8) if values[code] != math.inf]
    assert list(range(first_infinite_code)) == finite
    negative = [one_block(8 + code, scale, dtype) for code in range(8)]
    assert [-v for v in values] == negative


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_scale_byte_255_is_nan_for_every_code(dtype) -> None:
    assert all(math.isnan(one_block(code, 0xFF, dtype)) for code in range(16))


@decoders
def test_code_8_is_minus_zero_under_every_scale_but_nan(decoder) -> None:
    blocks = torch.full((255, 1, 16), 0x88, dtype=torch.uint8)
    values = decoder(blocks, BYTES[:255, None], torch.float32)
    assert (values == 0).all()
    assert values.signbit().all()


@decoders
def test_a_nan_scale_spoils_its_own_block_only(decoder) -> None:
    blocks = torch.full((3, 16), 0x22, dtype=torch.uint8)
    scales = torch.tensor([127, 255, 128], dtype=torch.uint8)
    values = decoder(blocks, scales, torch.float32).view(3, 32)
    assert (values[0] == 1).all()
    assert values[1].isnan().all()
    assert (values[2] == 2).all()


@decoders
def test_leading_axes_are_kept(decoder) -> None:
    """[e, row, g, 16] -> [e, row, 32g], each block by its own scale."""
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(256, (2, 3, 5, 16), generator=generator, dtype=torch.uint8)
    scales = torch.randint(255, (2, 3, 5), generator=generator, dtype=torch.uint8)
    whole = decoder(blocks, scales, torch.float64)
    assert (2, 3, 160) == tuple(whole.shape)
    single = decoder(blocks[1, 2, 3:4], scales[1, 2, 3:4], torch.float64)
    assert torch.equal(single, whole[1, 2, 96:128])


@pytest.mark.parametrize("source", ["mldtypes", "gptoss"])
def test_e2m1_values_are_the_golden_table(source, golden) -> None:
    expected = torch.from_numpy(golden[f"e2m1_values_{source}"])
    assert torch.equal(bits(expected), bits(torch.tensor(e2m1.VALUES)))


def test_e2m1_bit_fields_give_the_table() -> None:
    significand, exponent = e2m1.value_from_bits(CODES)
    expected = torch.tensor(e2m1.VALUES, dtype=torch.float64)
    assert torch.equal(bits(expected), bits(torch.ldexp(significand, exponent)))


def test_e2m1_codes_survive_value_and_back() -> None:
    values = torch.tensor(e2m1.VALUES, dtype=torch.float64)
    assert torch.equal(CODES, e2m1.round_to_code(values))


def test_e2m1_midpoints_lie_half_way() -> None:
    pairs = zip(e2m1.VALUES[:7], e2m1.VALUES[1:8], strict=True)
    assert e2m1.MIDPOINTS == tuple((low + high) / 2 for low, high in pairs)


def test_e8m0_values_are_the_golden_table(golden) -> None:
    expected = golden_values(golden["e8m0_values_mldtypes_bits"], torch.float32)
    assert torch.equal(bits(expected), bits(e8m0.values(BYTES).float()))


def test_the_low_nibble_comes_first() -> None:
    packed = torch.tensor([0x21, 0xF8], dtype=torch.uint8)
    assert [1, 2, 8, 15] == unpack_nibbles(packed).tolist()


def test_the_low_nibble_is_decoded_first() -> None:
    """Byte b holds element 2b low (here 1.0) and element 2b+1 high (here 6.0)."""
    blocks = torch.full((1, 16), 0x72, dtype=torch.uint8)
    values = decode(blocks, torch.tensor([127], dtype=torch.uint8))
    assert [1.0, 6.0] * 16 == values.tolist()


def test_every_byte_survives_unpack_and_pack() -> None:
    assert torch.equal(BYTES, pack_nibbles(unpack_nibbles(BYTES)))


def test_every_pair_of_codes_survives_pack_and_unpack() -> None:
    pairs = torch.cartesian_prod(CODES, CODES)
    packed = pack_nibbles(pairs)
    assert 256 == len(packed.unique())
    assert torch.equal(pairs, unpack_nibbles(packed))
