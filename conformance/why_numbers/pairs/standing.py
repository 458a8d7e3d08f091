"""A token's bits by the place where it stands, and by how many stand beside it.

Copies of one token are given in batches of every size. All rows should have the bits
that the token has alone; which do not is a rule of size and place, whatever the others
would have held.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.designed import CaseData
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.why_numbers.moved import ranges
from mxmoe.conformance.why_numbers.pairs.called_again import Calls
from mxmoe.reference.types import Routing

Tensor = torch.Tensor
# A call takes a millisecond where cases are as small as those of laws.
_MOST = 136


def explain_standing(calls: Calls, data: CaseData, token: int, most: int) -> str:
    """A sentence on `token` of `data` in batches of up to `most` tokens."""
    sizes = range(2, min(most, _MOST) + 1)
    alone = calls.out(_copies(data, token, 1))[0]
    others = {
        size: (calls.out(_copies(data, token, size)) != alone).any(dim=1)
        for size in sizes
    }
    differing = [size for size, rows in others.items() if rows.any()]
    if not differing:
        return (
            f"copies of token {token} alone have its bits, in batches of each size to "
            f"{max(sizes, default=1)}: what the other tokens hold, or which experts "
            "they visit, matters"
        )
    rows = _rows([others[size] for size in differing])
    return (
        f"other bits than the same token alone: {rows} {_sizes(differing, sizes)}, "
        "whatever the others hold"
    )


def why_standing(judge: Judge, case: Case, data: CaseData, token: int) -> list[str]:
    """As a line that begins ``why``; none if the candidate fails in these calls."""
    try:
        words = explain_standing(Calls(judge, case), data, token, case.tokens)
    except Exception:
        return []
    return [f"why    {words}"]


def _copies(data: CaseData, token: int, count: int) -> CaseData:
    at = torch.full((count,), token)
    routing = Routing(data.routing.ids[at], data.routing.weights[at])
    return replace(data, hidden_states=data.hidden_states[at], routing=routing)


def _rows(masks: Sequence[Tensor]) -> str:
    """Which rows differ in each batch that has some."""
    if all(mask.all() for mask in masks):
        return "every row"
    if all(mask[1:].all() for mask in masks) and not any(mask[0] for mask in masks):
        return "every row but the first"
    for words, at in (("the first row", 0), ("the last row", -1)):
        if all(int(mask.sum()) == 1 and mask[at] for mask in masks):
            return words
    largest = masks[-1]
    if all(torch.equal(mask, largest[: len(mask)]) for mask in masks):
        return f"{ranges('row', largest)}, where there is one,"
    return f"some row ({ranges('row', largest)} of {len(largest)})"


def _sizes(differing: Sequence[int], sizes: range) -> str:
    first = differing[0]
    if list(differing) == list(range(first, sizes.stop)):
        return f"of batches from {first} tokens on"
    for words, rest in (("an odd number of", 1), ("an even number of", 0)):
        if list(differing) == [n for n in sizes if n % 2 == rest and n >= first]:
            return f"of batches of {words} tokens"
    mask = torch.isin(torch.arange(sizes.stop), torch.tensor(differing))
    return f"of batches of {ranges('size', mask)}"
