"""Numbers of rows for each expert that tell rules of tiles apart.

In a drawn case few experts have a number of rows just above or below a tile's; here
several have, for each tile, and few have any other.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from mxmoe.conformance.cases.designed import CaseData
from mxmoe.reference.types import Routing

# Ones above tiles of 8, 16, 32, 64 and 128, whole tiles, others, and few; any first 4,
# 5, 10 or 20 are an even number of rows, no more than half of them of one expert.
_COUNTS = (17, 33, 65, 47, 16, 9, 65, 32, 129, 129, 129, 18, 64, 8, 31, 48, 1, 3, 2, 6)
TOP_K = 2
FEWEST = 4
MOST = len(_COUNTS)


def tokens_for(experts: int) -> int:
    """The tokens of a layer, `TOP_K` slots each, of which a rank has `experts`."""
    return sum(_COUNTS[:experts]) // TOP_K


def with_counts(data: CaseData, owned: range) -> CaseData:
    """`data`, of `tokens_for` tokens, with the slots of all on the experts `owned`."""
    t = len(data.hidden_states)
    counts = torch.tensor(_COUNTS[: len(owned)])
    # Every t-th slot of the sorted ones is of one token, and no expert has t of them.
    experts = torch.arange(owned.start, owned.stop).repeat_interleave(counts)
    ids = experts.reshape(TOP_K, t).T.to(data.routing.ids.dtype)
    # Neither tokens nor slots of a token are in the order of experts.
    ids = ids[torch.randperm(t, generator=torch.Generator().manual_seed(0))]
    odd = (torch.arange(t) % 2 == 1)[:, None]
    ids = torch.where(odd, ids.flip(1), ids).contiguous()
    return replace(data, routing=Routing(ids, data.routing.weights))


def described(experts: int) -> str:
    """In what such a case differs from what its word says."""
    counts = _COUNTS[:experts]
    return f" with experts of {min(counts)} to {max(counts)} rows"
