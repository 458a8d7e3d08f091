"""Rows that slots without an expert on this rank are computed from all the same.

A kernel that has a tile for such slots masks what it loads, to 0, or clamps the index,
to the first or last token; and some expert of the rank multiplies it, and adds its
biases.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from mxmoe.conformance.bounds.propagated import judge_rank
from mxmoe.conformance.why_numbers.layer_steps import Situation
from mxmoe.reference.types import Arithmetic
from mxmoe.reference.types import Routing

Tensor = torch.Tensor
# Rows of all experts together; more would take long.
_MOST = 256


@dataclass(frozen=True, kw_only=True)
class MadeRows:
    """words : what is added. row : of `rows` [n, h], that of each slot [t, k].

    allowed : [n, h], what `rows` may be off by.
    """

    words: str
    row: Tensor
    rows: Tensor
    allowed: Tensor


def made_rows(s: Situation, arithmetic: Arithmetic) -> Iterator[MadeRows]:
    """What each expert that may be taken makes of each row that may be."""
    owned = s.shard.expert_range(s.config)
    count, hidden = len(owned), s.hidden_states
    given = {
        "hidden states of 0": torch.zeros_like(hidden[:1]),
        "token 0": hidden[:1],
        "the last token": hidden[-1:],
    }
    if not len(hidden) or not 0 < count * len(given) <= _MOST:
        return
    states = torch.cat([x.expand(count, -1) for x in given.values()])
    ids = torch.arange(owned.start, owned.stop, dtype=s.routing.ids.dtype)
    ids = ids.repeat(len(given))[:, None]
    judged = judge_rank(
        s.part,
        s.config,
        states,
        Routing(ids, torch.ones(ids.shape)),
        shard=s.shard,
        arithmetic=arithmetic,
    )
    rows, allowed = (x["down"][:, 0] for x in (judged.truth, judged.allowed))
    for number, what in enumerate(given):
        mine = slice(number * count, (number + 1) * count)
        for who, local in _experts(s.routing.ids.long(), owned):
            yield MadeRows(
                words=f"what {who} makes of {what}",
                row=local,
                rows=rows[mine],
                allowed=allowed[mine],
            )


def _experts(ids: Tensor, owned: range) -> Iterator[tuple[str, Tensor]]:
    """(words, the local expert of each slot [t, k])."""
    count = len(owned)
    yield "the rank's first expert", torch.zeros_like(ids)
    if count > 1:
        yield "the rank's last expert", torch.full_like(ids, count - 1)
        words = f"expert id modulo {count} of the rank"
        yield words, ids % count
        yield "the expert nearest to the id", (ids - owned.start).clamp(0, count - 1)
