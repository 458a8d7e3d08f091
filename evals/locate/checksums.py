"""Two checksums of a tensor: one that sees the order of its entries, one that does not.

Both equal: the same tensor. Only the second equal: the same entries in another order,
"permuted", which is a diagnosis by itself: norms and sums cannot tell the two apart.
They are taken in parts, so that a tensor need not be in memory whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from mxmoe.conformance.judging.compare_bytes import as_bytes

# Odd constants of splitmix64 (Steele, Lea, Flood 2014), a bijection of 64 bits that
# spreads each input bit over all output bits.
_STEP, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


@dataclass(frozen=True)
class Checksums:
    """sequence : SHA-256 of the bytes in order. entries, rows : sums over the hashes of
    all entries, and of all rows (along the first axis), modulo 2**64."""

    sequence: str
    entries: int
    rows: int

    def compare(self, other: Checksums) -> str | None:
        """None if equal, else "rows permuted", "permuted" or "differs"."""
        if self.sequence == other.sequence:
            return None
        if self.rows == other.rows:
            return "rows permuted"
        return "permuted" if self.entries == other.entries else "differs"


def checksums(parts: Iterable[torch.Tensor]) -> Checksums:
    """Of a tensor that comes in `parts` along its first axis.

    The width of an entry is that of its dtype; of a tensor of one axis each entry is a
    row.
    """
    sequence, entries, rows = hashlib.sha256(), np.uint64(0), np.uint64(0)
    with np.errstate(over="ignore"):
        for part in parts:
            if not part.numel():
                continue
            raw = as_bytes(part).reshape(len(part), -1).numpy()
            sequence.update(raw.data)
            words = _mixed(_words(raw, part.element_size()))
            entries += words.sum(dtype=np.uint64)
            place = np.arange(words.shape[1], dtype=np.uint64) * np.uint64(_STEP)
            rows += _mixed(_mixed(words + place).sum(axis=1, dtype=np.uint64)).sum(
                dtype=np.uint64
            )
    return Checksums(sequence.hexdigest(), int(entries), int(rows))


def _words(raw: np.ndarray, width: int) -> np.ndarray:
    """Bytes [n, w * width] -> one number an entry, [n, w]."""
    kinds = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
    return np.ascontiguousarray(raw).view(kinds[width]).astype(np.uint64)


def _mixed(words: np.ndarray) -> np.ndarray:
    z = words + np.uint64(_STEP)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(_FIRST)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(_SECOND)
    mixed: np.ndarray = z ^ (z >> np.uint64(31))
    return mixed
