"""The bits of a word: eight E2M1 codes, spread so that shifts make bfloat16s of them.

A 16-byte block is four words of the checkpoint, j = 0..3; byte c of word j holds codes
(j, c, v = 0, 1), the first in its low nibble. Of them are made four words c, with the
codes (j, v) for all j: v is the half of the word, `HALF_WORD` the order in it.

Code 0 stands where bfloat16 has sign, low exponent and top mantissa bits; code 1 comes
there shifted left by 3, code 2 by 6. Code 3 has the places that are left.
"""

from __future__ import annotations

import torch

# The bits of a code.
SIGN, HIGH, LOW, MANTISSA = 3, 2, 1, 0

# (code j, bit) at the bits 3, 2, 1, 0 of each nibble of a half word, lowest first.
HALF_WORD = (
    ((1, MANTISSA), (2, HIGH), (2, LOW), (2, MANTISSA)),
    ((0, LOW), (0, MANTISSA), (1, HIGH), (1, LOW)),
    ((3, HIGH), (3, LOW), (2, SIGN), (0, HIGH)),
    ((0, SIGN), (3, SIGN), (3, MANTISSA), (1, SIGN)),
)

_EVERY_NIBBLE = 0x11111111


def spread_codes(
    words: torch.Tensor, spread: torch.Tensor, spare: torch.Tensor
) -> None:
    """Words j, int32 [4, n] of n blocks -> `spread`, words c, int32 [4, n].

    spare : int32 [2, n], overwritten. All three contiguous.

    Each word has eight nibbles (c, v). First bits go from nibble to nibble of the same
    place: plane k holds, in nibble (c, v), nibble k of the half word (c, v). That is a
    matrix of nibbles to transpose, k by c, with v moved to the top: three exchanges of
    a bit of the plane's number with a bit of the nibble's.
    """
    # Numbered by the bits of k, the low one first: what becomes c, high bit first.
    planes = spread.unflatten(0, (2, 2))
    for k, nibble in enumerate(HALF_WORD):
        _collect(planes[k % 2, k // 2], words, nibble, spare[0])
    c_low, v, c_high = 8, 4, 16  # bits of a word between nibbles that differ in it
    for axis, distance in ((1, c_low), (0, v), (0, c_high)):
        low, high = planes.unbind(axis)
        _exchange(low, high, distance, spare)


def _collect(
    to: torch.Tensor,
    words: torch.Tensor,
    nibble: tuple[tuple[int, int], ...],
    spare: torch.Tensor,
) -> None:
    """The bits of one nibble of the half words, from the words of their codes."""
    moves: dict[tuple[int, int], int] = {}
    for place, (j, bit) in zip((3, 2, 1, 0), nibble, strict=True):
        shift = place - bit
        moves[shift, j] = moves.get((shift, j), 0) | 1 << bit
    # The first is one to the right or in place, in every nibble of the half word.
    for n, ((shift, j), bits) in enumerate(sorted(moves.items())):
        right, left = max(-shift, 0), max(shift, 0)
        piece, kept = spare if n else to, _signed((bits >> right) * _EVERY_NIBBLE)
        if right:
            torch.bitwise_right_shift(words[j], right, out=piece).bitwise_and_(kept)
        else:
            torch.bitwise_and(words[j], kept, out=piece)
        if n:
            to.add_(piece, alpha=1 << left)  # of different bits: the same as "or"


def _exchange(
    low: torch.Tensor, high: torch.Tensor, distance: int, spare: torch.Tensor
) -> None:
    """Nibbles with their bit set, of `low`, for those without it, of `high`."""
    without = sum(1 << b for b in range(32) if not b & distance)
    torch.bitwise_right_shift(low, distance, out=spare)
    spare.bitwise_xor_(high).bitwise_and_(_signed(without))
    high.bitwise_xor_(spare)
    low.bitwise_xor_(spare.bitwise_left_shift_(distance))


def _signed(mask: int) -> int:
    """The int32 with the bits of `mask`."""
    return mask - (mask >> 31 << 32)
