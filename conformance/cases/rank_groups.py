"""Groups of ranks that share a layer: which are judged, and who is in one.

A case names a group by any of its ranks: ``tp4r0-ep2r0`` is all 8 of them.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from mxmoe.reference.types import Shard

# Sizes of real deployments (2, 4, 8, 16), and those that divide nothing (3, 5, 6, 7).
GROUPS = (
    *(Shard(tp_size=n) for n in (2, 3, 4, 5, 6, 7, 8, 16)),
    *(Shard(ep_size=n) for n in (2, 4, 8)),
    *(Shard(tp_size=t, ep_size=e) for t, e in ((2, 2), (3, 2), (2, 4), (4, 8))),
)


@cache
def ranks_of(group: Shard) -> tuple[Shard, ...]:
    """Every rank of `group` at its global rank: ep_rank * tp_size + tp_rank."""
    return tuple(
        replace(group, tp_rank=tp_rank, ep_rank=ep_rank)
        for ep_rank in range(group.ep_size)
        for tp_rank in range(group.tp_size)
    )
