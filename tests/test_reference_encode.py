"""`mxmoe.reference.formats.encode`, against an oracle in exact rationals.

The oracle shares nothing with the encoder: the scale byte counts the steps, as
fractions, that the largest magnitude has passed; the code is the nearest of the
eight magnitudes by brute force. Each distinct number is worked out once.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from bisect import bisect_right
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
import torch

from mxmoe.reference.errors import BadInput
from mxmoe.reference.formats import SCALE_RULES
from mxmoe.reference.formats import decode
from mxmoe.reference.formats import encode
from mxmoe.reference.formats import pack_nibbles
from mxmoe.reference.formats import unpack_nibbles

INF, NAN = math.inf, math.nan
MAGNITUDES = tuple(Fraction(m) for m in ("0", ".5", "1", "1.5", "2", "3", "4", "6"))
MIDPOINTS = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)

# amax at which the scale byte becomes b = 1, 2, ... 254, i.e. 2**(b - 127):
# floor 4 * scale, even 3.5 * scale, both included; ceil 3 * scale, excluded,
# because 6 * (scale / 2) still reaches it.
STEPS = {
    rule: [first * Fraction(2) ** (byte - 127) for byte in range(1, 255)]
    for rule, first in (("floor", 4), ("even", Fraction(7, 2)), ("ceil", 3))
}
PASSED = {"floor": bisect_right, "even": bisect_right, "ceil": bisect_left}
INF_BYTE = {"floor": 253, "even": 253, "ceil": 254}

DTYPES = [torch.bfloat16, torch.float32, torch.float64]

rules = pytest.mark.parametrize("rule", SCALE_RULES)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@cache
def oracle_byte(amax: float, rule: str) -> int:
    """The scale byte of a block with largest magnitude `amax`."""
    if math.isnan(amax):
        return 255
    if math.isinf(amax):
        return INF_BYTE[rule]
    return PASSED[rule](STEPS[rule], Fraction(amax))


@cache
def oracle_code(ratio: float) -> int:
    """The nearest magnitude's code, the even one of two equally near."""
    exact = Fraction(ratio)
    return min(range(8), key=lambda code: (abs(exact - MAGNITUDES[code]), code % 2))


def oracle(x: torch.Tensor, rule: str) -> tuple[np.ndarray, np.ndarray]:
    """[n, 32] -> codes [n, 32] and scale bytes [n]."""
    rows = x.double().numpy()
    amax = np.abs(rows).max(axis=1).tolist()
    scales = np.array([oracle_byte(a, rule) for a in amax])
    # Exact: a power of two moves no bit. Past 8 every value saturates alike.
    ratios = np.minimum(np.abs(np.ldexp(rows, 127 - scales[:, None])), 8.0)
    ratios[scales == 255] = 0.0
    distinct, place = np.unique(ratios, return_inverse=True)
    codes = np.array([oracle_code(r) for r in distinct.tolist()])[place]
    codes = codes.reshape(rows.shape) + 8 * np.signbit(rows)
    codes[scales == 255] = 0
    return codes, scales


def assert_encoded_exactly(x: torch.Tensor, rule: str) -> None:
    """Compare every code and scale byte; show the first blocks that differ."""
    codes, scales = oracle(x, rule)
    blocks, found_scales = encode(x, rule)
    found = unpack_nibbles(blocks).flatten(1).numpy()
    wrong = (codes != found).any(axis=1) | (scales != found_scales.flatten().numpy())
    assert [] == [
        f"amax {x[n].abs().max().item().hex()}: expected byte {scales[n]}, codes "
        f"{codes[n].tolist()}, found {found_scales[n].item()}, {found[n].tolist()}"
        for n in np.flatnonzero(wrong)[:3]
    ]


def with_neighbours(x: torch.Tensor) -> torch.Tensor:
    """Positive values [..., n] -> [..., 3n]: one ulp below, themselves, one above."""
    below = torch.nextafter(x, torch.zeros_like(x))
    above = torch.nextafter(x, torch.full_like(x, INF))
    return torch.cat((below, x, above), dim=-1)


def blocks_around(amax: torch.Tensor, rule: str) -> torch.Tensor:
    """[n] -> [n, 32]: each value with partners where rounding decides.

    Element 0 is the value and the largest. Then the block's seven midpoints and
    one ulp of the dtype to either side, signs alternating, cut off just below the
    value, so that it alone decides; then -0 and +0.
    """
    size = amax.abs().masked_fill(amax.isnan(), 6.0)
    exponents = np.array([[oracle_byte(a, rule) - 127] for a in size.tolist()])
    middle = torch.from_numpy(np.ldexp(MIDPOINTS, exponents)).to(amax.dtype)
    less = torch.nextafter(size, torch.zeros_like(size))
    partners = torch.minimum(with_neighbours(middle), less[:, None])
    partners[:, ::2] *= -1
    x = amax.new_zeros(len(amax), 32)
    x[:, 0], x[:, 1:22], x[:, 22] = amax, partners, -0.0
    return x


def steps_of_every_binade(dtype: torch.dtype) -> torch.Tensor:
    """1, 1.5, 1.75 and their neighbours, from 2**-149 to past the largest scale."""
    exact = np.ldexp([1.0, 1.25, 1.5, 1.75], np.arange(-149, 128)[:, None])
    return with_neighbours(torch.from_numpy(exact).flatten().to(dtype))


def block(*elements: float, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """One block [1, 32]: the elements given, then zeros."""
    return torch.tensor([[*elements, *[0.0] * (32 - len(elements))]], dtype=dtype)


def encoded(x: torch.Tensor, rule: str) -> tuple[list[int], int]:
    """Codes and scale byte of one block."""
    blocks, scales = encode(x, rule)
    return unpack_nibbles(blocks).flatten().tolist(), scales.item()


@rules
def test_every_bfloat16_value_as_amax_is_encoded_exactly(rule) -> None:
    """All 65 536 patterns: NaN, Inf, -0 and subnormals among them."""
    patterns = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    amax = patterns.view(torch.bfloat16)
    assert_encoded_exactly(blocks_around(amax, rule), rule)


@rules
def test_every_bfloat16_value_beside_a_large_one_is_encoded_exactly(rule) -> None:
    """Each pattern as an ordinary element of a block with scale 1."""
    patterns = torch.arange(2**16, dtype=torch.int32).to(torch.int16)
    small = patterns.view(torch.bfloat16)
    small = small[small.abs() <= 6]
    x = torch.nn.functional.pad(small, (0, -len(small) % 31)).view(-1, 31)
    x = torch.nn.functional.pad(x, (0, 1), value=6.0)
    assert_encoded_exactly(x, rule)


@rules
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_every_midpoint_and_step_is_exact_in_every_binade(rule, dtype) -> None:
    x = blocks_around(steps_of_every_binade(dtype), rule)
    assert_encoded_exactly(torch.cat((x, -x)), rule)


@rules
@pytest.mark.parametrize(("sign", "sign_bit"), [(1, 0), (-1, 8)])
def test_midpoints_round_to_even(rule, sign, sign_bit) -> None:
    """With scale 1; half away would give 1 2 3 4 5 6 7, half down 0 1 2 3 4 5 6."""
    codes, byte = encoded(block(6.0, *(sign * m for m in MIDPOINTS)), rule)
    magnitudes = [code - sign_bit for code in codes[1:8]]
    assert (127, [0, 2, 2, 4, 4, 6, 6]) == (byte, magnitudes)


@pytest.mark.parametrize(
    ("amax", "floor", "even", "ceil"),
    [
        (4.0, (127, 6), (127, 6), (127, 6)),
        (6.0, (127, 7), (127, 7), (127, 7)),
        (6.0 + 2**-50, (127, 7), (127, 7), (128, 5)),
        (7.0 - 2**-50, (127, 7), (127, 7), (128, 5)),
        (7.0, (127, 7), (128, 6), (128, 6)),
        (8.0 - 2**-49, (127, 7), (128, 6), (128, 6)),
        (8.0, (128, 6), (128, 6), (128, 6)),
    ],
)
def test_the_rules_differ_at_their_steps(amax, floor, even, ceil) -> None:
    """Byte and code of amax itself; 6.x saturates under floor, 7 under no other."""
    found = [encoded(block(amax), rule) for rule in SCALE_RULES]
    assert [floor, even, ceil] == [(byte, codes[0]) for codes, byte in found]


@rules
def test_an_all_zero_block_has_scale_byte_0_and_keeps_its_signs(rule) -> None:
    assert ([0] * 32, 0) == encoded(block(), rule)
    assert ([8] * 32, 0) == encoded(-block(), rule)


@rules
@dtypes
@pytest.mark.parametrize("partner", [1.0, INF, -0.0])
def test_one_nan_makes_the_whole_block_nan(rule, dtype, partner) -> None:
    x = block(partner, NAN, -3.0, dtype=dtype)
    assert ([0] * 32, 255) == encoded(x, rule)
    assert decode(*encode(x, rule)).isnan().all()


@rules
def test_a_nan_does_not_touch_the_next_block(rule) -> None:
    x = torch.cat((block(NAN), block(6.0)), dim=1)
    blocks, scales = encode(x, rule)
    assert [[255, 127]] == scales.tolist()
    assert 7 == blocks[0, 1, 0].item()


@rules
@dtypes
def test_infinity_keeps_its_sign_and_flattens_its_partners(rule, dtype) -> None:
    codes, byte = encoded(block(INF, -INF, 1e30, -1e30, dtype=dtype), rule)
    assert INF_BYTE[rule] == byte
    assert [7, 15, 0, 8, 0] == codes[:5]


@rules
@pytest.mark.parametrize(
    ("amax", "code"),
    [
        (2.0**-125, 6),
        (2.0**-126, 4),
        (1.5 * 2.0**-127, 3),
        (2.0**-127, 2),
        (1.5 * 2.0**-128, 2),
        (2.0**-128, 1),
        (2.0**-129, 0),
        (2.0**-149, 0),
        (5e-324, 0),
    ],
)
def test_blocks_below_the_smallest_scale_are_divided_by_it(rule, amax, code) -> None:
    """By 2**-127, as decode multiplies; dividing by 2**-126 would halve the codes."""
    codes, byte = encoded(block(amax, -amax), rule)
    assert (0, [code, code + 8]) == (byte, codes[:2])


@rules
def test_values_past_the_largest_scale_saturate(rule) -> None:
    codes, byte = encoded(block(1e300, -1e300, 1.0), rule)
    assert (254, [7, 15, 0]) == (byte, codes[:3])


@rules
def test_representable_blocks_survive_bit_for_bit(rule) -> None:
    """Every scale byte, every largest code, every smaller code of either sign."""
    codes = torch.arange(16, dtype=torch.uint8).repeat(2)
    codes = torch.stack([codes * (codes % 8 <= top) for top in range(8)])
    blocks = pack_nibbles(codes).expand(255, -1, -1)
    scales = torch.arange(255, dtype=torch.uint8)[:, None].expand(-1, 8)
    values = decode(blocks, scales)
    again = decode(*encode(values, rule))
    assert torch.equal(values.view(torch.int64), again.view(torch.int64))


@rules
def test_no_element_that_fits_errs_by_more_than_half_the_widest_gap(rule) -> None:
    """The gap from 4 to 6 is 2 scales wide; under ceil every float32 value fits."""
    x = steps_of_every_binade(torch.float32)[:, None].expand(-1, 32)
    blocks, scales = encode(x, rule)
    scale = torch.from_numpy(np.ldexp(1.0, scales.int().numpy() - 127))
    fits = x.abs() <= 6 * scale
    error = (decode(blocks, scales) - x.double()).abs()
    assert (error <= scale)[fits].all()
    assert rule != "ceil" or fits.all()


@rules
def test_leading_axes_are_kept_and_blocks_are_independent(rule) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, 64, generator=generator)
    whole, alone = encode(x, rule), encode(x[1, 2, 32:], rule)
    assert (2, 3, 2) == tuple(whole[1].shape)
    assert all(torch.equal(a[0], w[1, 2, 1]) for a, w in zip(alone, whole, strict=True))


@pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 32)])
def test_an_empty_tensor_gives_empty_blocks(shape) -> None:
    assert shape == tuple(decode(*encode(torch.zeros(shape), "floor")).shape)


@pytest.mark.parametrize("rule", ["", "FLOOR", "rceil", "nearest"])
def test_an_unknown_rule_is_bad_input(rule) -> None:
    with pytest.raises(BadInput) as caught:
        encode(block(), rule)
    expected = f"scale rule: expected one of floor, even, ceil, found {rule!r}"
    assert expected == str(caught.value)


@pytest.mark.parametrize("shape", [(), (31,), (33,), (2, 16), (32, 1)])
def test_a_last_axis_that_is_not_whole_blocks_is_bad_input(shape) -> None:
    with pytest.raises(BadInput) as caught:
        encode(torch.zeros(shape), "floor")
    expected = (
        "encode: expected a last axis that is a multiple of 32, "
        f"found shape {list(shape)}"
    )
    assert expected == str(caught.value)
