"""Which tokens one token has spoiled."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from mxmoe.conformance.why_numbers.moved import ranges

Tensor = torch.Tensor
_SHOWN = 3
# Rows that a kernel may treat together; the largest tile of 16-bit matrix units is 256.
_TILES = (2, 4, 8, 16, 32, 64, 128, 256)


def spoiled_by(bad: int, wrong: Tensor, ids: Tensor) -> str:
    """What exactly the tokens of a mask [t] have to do with token `bad`; ids : [t, k].

    Of the sets that fit, the simplest ones.
    """
    names = []
    for words, mask in _sets(bad, ids):
        others = mask.clone()
        others[bad] = False
        if torch.equal(others, wrong):
            names.append(words)
    return (
        f"exactly {'; or '.join(names[:_SHOWN])}" if names else ranges("token", wrong)
    )


def _sets(bad: int, ids: Tensor) -> Iterator[tuple[str, Tensor]]:
    at = torch.arange(len(ids))
    yield "all others: what is shared by the whole batch", torch.ones_like(at) > 0
    yield "the next token", at == bad + 1
    yield "the token before", at == bad - 1
    yield "the tokens behind it", at > bad
    yield "the tokens before it", at < bad
    visited = ids[bad][ids[bad] >= 0]
    for slot, expert in enumerate(ids[bad].tolist()):
        if expert >= 0:
            mask = (ids == expert).any(dim=1)
            yield f"those that visit expert {expert}, as its slot {slot} does", mask
    shared = torch.isin(ids, visited).any(dim=1)
    yield "those that visit one of its experts", shared
    for tile in _TILES:
        if tile < len(ids):
            yield f"those of its tile of {tile} tokens", at // tile == bad // tile
    for tile in _TILES:
        mask = torch.zeros_like(at, dtype=torch.bool)
        for expert in visited.tolist():
            rows = (ids == expert).any(dim=1)
            row = rows.cumsum(dim=0) - 1
            near = rows & (row // tile == row[bad] // tile)
            mask |= near
            if tile < int(rows.sum()):
                yield f"those of its tile of {tile} rows of expert {expert}", near
        if not torch.equal(mask, shared):
            yield f"those of its tiles of {tile} rows of an expert", mask
