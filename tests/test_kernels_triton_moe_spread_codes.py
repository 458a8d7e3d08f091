"""`kernels.triton_moe.spread_codes`: where each bit goes, and what for."""

from __future__ import annotations

import torch

from mxmoe.kernels.triton_moe.spread_codes import spread_codes

# The bits of a half word with a code's sign, exponent bits and mantissa, by its number.
CODE_BITS = ((15, 8, 7, 6), (12, 5, 4, 3), (9, 2, 1, 0), (14, 11, 10, 13))


def test_each_bit_of_each_code_has_its_place() -> None:
    """All 128 bits of a block, one at a time."""
    for j in range(4):
        for bit in range(32):
            block = torch.zeros(4, 1, dtype=torch.int32)
            block[j] = 1 << bit if bit < 31 else -(1 << 31)
            found, spare = torch.empty_like(block), block.new_empty(2, 1)
            spread_codes(block, found, spare)
            (c, place), v = divmod(bit, 8), bit % 8 // 4
            bit_of_code = 3 - place % 4
            to = CODE_BITS[j][bit_of_code] + 16 * v
            expected = [0, 0, 0, 0]
            expected[c] = 1 << to if to < 31 else -(1 << 31)
            assert expected == found.flatten().tolist(), (j, bit)


def test_codes_are_shifted_into_bfloat16s() -> None:
    """What the places are for: shifts, masks and a factor of 2^126 give the values.

    Every code in every place; the fourth in a half word takes three shifts.
    """
    values = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    values = torch.cat((values, -values))
    j, c, v, n = torch.meshgrid(*map(torch.arange, (4, 4, 2, 16)), indexing="ij")
    codes = (n + 5 * j + 3 * c + 7 * v) % 16
    words = torch.zeros(4, 16, dtype=torch.int32)
    for c in range(4):
        for v in (0, 1):
            words |= (codes[:, c, v].int() << (8 * c + 4 * v)).int()
    found = torch.empty_like(words)
    spread_codes(words, found, words.new_empty(2, 16))
    halves = found.view(torch.int16).unflatten(1, (-1, 2)).int() & 0xFFFF
    for j in range(4):
        if j < 3:
            bits = halves << 3 * j & 0b1000000111000000
        else:
            sign, exponent = halves << 1 & 1 << 15, halves >> 3 & 0b110000000
            bits = sign | exponent | halves >> 7 & 1 << 6
        exact = bits.to(torch.int16).view(torch.bfloat16).double() * 2.0**126
        assert torch.equal(exact.transpose(1, 2).float(), values[codes[j]])
