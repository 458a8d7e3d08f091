"""Bits within words: where each goes, and that a kernel can decode them so."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from mxmoe.reference.formats import decode
from mxmoe.reference.layouts import BitOrder
from mxmoe.reference.layouts.bit_order import WORD_BITS
from mxmoe.reference.layouts.triton_hopper import FP4_IN_BF16

# Every byte once, in an order that repeats nothing within a word.
ENTRIES = (37 * torch.arange(256) % 256).to(torch.uint8)


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(places=st.permutations(range(WORD_BITS)))
def test_bits_are_moved_and_none_is_lost(places) -> None:
    """Each of the 32 words with one bit set becomes the word that the table says."""
    order = BitOrder("drawn", tuple(places))
    words = torch.tensor([1 << b for b in range(31)] + [-(1 << 31)], dtype=torch.int32)
    moved = order.apply(words.view(torch.uint8)).view(torch.int32)
    assert [words[to].item() for to in places] == moved.tolist()
    # Rows of 12 entries, the first word two bytes off a border.
    entries = ENTRIES[2:38].reshape(3, 12)
    assert torch.equal(entries, order.undo(order.apply(entries)))


def test_a_shift_and_a_mask_decode_a_word() -> None:
    """What the order is for: bfloat16(code) * 2**-126, four codes a half word."""
    entries = ENTRIES.reshape(1, 16, 16)
    words = FP4_IN_BF16.apply(ENTRIES).view(torch.int32).tolist()
    mask = 0b1000_0001_1100_0000
    found = []
    for word in words:
        halves = word & 0xFFFF, word >> 16 & 0xFFFF
        for shift in (0, 3, 6):
            found += [half << shift & mask for half in halves]
        found += [
            half << 1 & 0x8000 | half >> 3 & 0x0180 | half >> 7 & 0x0040
            for half in halves
        ]
    signed = [bits - (bits >> 15 << 16) for bits in found]
    values = torch.tensor(signed, dtype=torch.int16).view(torch.bfloat16).double()
    unscaled = decode(entries, torch.full((1, 16), 127, dtype=torch.uint8)).flatten()
    assert torch.equal(unscaled, values * 2.0**126)
