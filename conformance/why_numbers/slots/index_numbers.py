"""Numbers that a kernel may take for the number of a slot's row.

Rows are stored in the order of slots n or sorted by expert. In either, a kernel may
count in tokens where it should count in slots, or the other way round. Where it keeps
one number for each token, all slots of the token take the row of one of them.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from mxmoe.conformance.why_numbers.slots.slot_sources import UNKNOWN
from mxmoe.conformance.why_numbers.slots.slot_sources import position_and_row

Tensor = torch.Tensor

# Neighbours, and rows of a swizzle.
_BITS = (1, 2, 4, 8, 16)


def index_numbers(ids: Tensor) -> Iterator[tuple[str, Tensor]]:
    """(words, the slot n that each slot [t, k] takes the row of, or `UNKNOWN`)."""
    t, k = ids.shape
    p, _ = position_and_row(ids)
    order = p.flatten().argsort()
    for words, number in _numbers(ids):
        inside = (number >= 0) & (number < t * k)
        held = torch.where(inside, number, 0)
        yield f"slot {words}", torch.where(inside, number, UNKNOWN)
        sorted_ = torch.where(inside, order[held], UNKNOWN)
        yield f"the slot at position {words} of the sorted ones", sorted_


def slots_of_tokens(ids: Tensor, weights: Tensor) -> Iterator[tuple[str, Tensor]]:
    """(words, the slot n that every slot [t, k] of a token takes the row of).

    An inverse permutation that is written in the order of experts keeps the last.
    ids : [t, k], -1 for slots that the rank does not serve. weights : [t, k].
    """
    served, first = ids >= 0, torch.arange(len(ids)) * ids.shape[1]
    if ids.shape[1] < 2:
        return
    for words, number in (
        ("expert id", ids.double()),
        ("routing weight", weights.double()),
    ):
        least = number.masked_fill(~served, torch.inf).argmin(dim=1)
        most = number.masked_fill(~served, -torch.inf).argmax(dim=1)
        for which, slot in (("highest", most), ("lowest", least)):
            source = (first + slot)[:, None].expand_as(ids).flatten()
            yield f"the slot of its token with the {which} {words}", source


def _numbers(ids: Tensor) -> Iterator[tuple[str, Tensor]]:
    t, k = ids.shape
    n = torch.arange(t * k)
    p, row = (x.flatten() for x in position_and_row(ids))
    for name, number in (("n", n), ("p", p), ("r", row)):
        yield f"{name} // top_k", number // k
        yield f"{name} // top_k * top_k", number // k * k
        yield f"{name} % top_k", number % k
        yield f"{name} // t", number // t
        yield f"{name} % t", number % t
        yield f"{name} * top_k", number * k
        yield f"{name} * top_k, modulo their number", number * k % (t * k)
        yield f"{name} * top_k, at most the last", (number * k).clamp(max=t * k - 1)
        for bit in _BITS:
            yield f"{name} xor {bit}", number ^ bit
    yield "r", row
    yield "token + slot * top_k", (n // k + n % k * k) % (t * k)
    yield "of the last one of its token", n // k * k + k - 1
    yield "of the next one of its token, around", n // k * k + (n + 1) % k
    yield "of the one before of its token, around", n // k * k + (n - 1) % k
    yield "of its expert's number", ids.flatten().long()
    yield "0", torch.zeros_like(n)
