"""Where a fault may be confined to: sets of slots or columns that few words can say.

A slot has four numbers that kernels take branches by: its expert, its token, its row r
among the slots of its expert, and its position p when all slots are sorted by expert.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch

from mxmoe.conformance.why_numbers.moved import ranges
from mxmoe.conformance.why_numbers.slots.slot_sources import TILES
from mxmoe.conformance.why_numbers.slots.slot_sources import position_and_row
from mxmoe.conformance.why_numbers.slots.slot_sources import row_sets

Tensor = torch.Tensor

# Halves of groups of so many lanes, columns, rows or tokens: what a warp divides.
_HALVES = (1, 2, 4, 8, 16, 32, 64)
# Columns and lanes that a tile of a GEMM may end at.
COLUMNS = (16, 32, 64, 128)
# More tokens are asked for at multiples of a tile only.
_EVERY_TOKEN = 64
# More slots take long, and are asked for in the simplest places only.
_MOST_SLOTS = 4096
# More columns than that are asked for in steps.
_STARTS = 64


@dataclass(frozen=True, kw_only=True)
class SlotScopes:
    """words : of each scope. level : how simple, 0 is the simplest. masks : [m, t, k].

    How well a change is confined to each of them follows from the products of what it
    does to the slots of one token, so that hundreds cost as much as one.
    """

    words: list[str]
    level: list[int]
    masks: Tensor

    @cached_property
    def _pairs(self) -> Tensor:
        """Both of two slots of a token are in the scope, [m, t, pairs]."""
        a, b = _pair_indices(self.masks.shape[2])
        return self.masks[..., a] * self.masks[..., b]

    def called(self, words: str) -> Tensor | None:
        """The slots [t, k] of a scope, if there is one of these words."""
        return self.masks[self.words.index(words)] if words in self.words else None

    def squares(self, error: Tensor, change: Tensor) -> Tensor:
        """Of error [t, h] less the change [t, k, h] within each scope: [m]."""
        gram = torch.einsum("tkh,tlh->tkl", change, change)
        along = torch.einsum("tkh,th->tk", change, error)
        single = gram.diagonal(dim1=1, dim2=2) - 2 * along
        a, b = _pair_indices(self.masks.shape[2])
        found = self.masks.flatten(1) @ single.flatten()
        found = found + self._pairs.flatten(1) @ (2 * gram[:, a, b]).flatten()
        return (float(error.square().sum()) + found).clamp(min=0)


def _pair_indices(k: int) -> tuple[Tensor, Tensor]:
    a, b = torch.triu_indices(k, k, offset=1)
    return a, b


def slot_scopes(ids: Tensor, served: Tensor, bad: Tensor, worst: int) -> SlotScopes:
    """Every scope that has a slot of the token `worst`, each once.

    ids, served : [t, k]; slots that are not served are in no scope. bad : tokens [t].
    """
    found: dict[bytes, list[tuple[int, str, Tensor]]] = {}
    for level, words, mask in _slot_scopes(ids, served, bad, worst):
        mask = mask & served
        if level and (not mask[worst].any() or torch.equal(mask, served)):
            continue
        alike = found.setdefault(mask.numpy().tobytes(), [])
        # Sets of rows have several names, one of which another case may refute.
        if not alike or SEVERAL <= alike[0][0] == level:
            alike.append((level, words, mask))
    scopes = [scope for alike in found.values() for scope in alike]
    levels, said, masks = zip(*scopes, strict=True)
    return SlotScopes(
        words=list(said), level=list(levels), masks=torch.stack(masks).double()
    )


# From this level on, scopes that are the same slots are all named.
SEVERAL = 2


def _slot_scopes(
    ids: Tensor, served: Tensor, bad: Tensor, worst: int
) -> Iterator[tuple[int, str, Tensor]]:
    """(level, words, slots [t, k])."""
    t, k = ids.shape
    every = torch.ones(t, k, dtype=torch.bool)
    yield 0, "", every
    for words, mask in _by_expert(ids, served, bad):
        yield 1, words, mask
    words = number_words("token", bad)
    if bad.any() and not bad.all() and few_words(words):
        yield 1, f"for {words} only", bad[:, None] & every
    slot = torch.arange(k).expand(t, k)
    for n in range(k) if k > 1 else ():
        yield 1, f"in slot {n} only", slot == n
        yield 1, f"in every slot but {n}", slot != n
    if t * k > _MOST_SLOTS:
        return
    parts = list(_parts(ids, served))
    for words, mask in parts:
        yield 2, f"{words} only", mask
    own = [n for n in range(k) if served[worst, n]]
    for n in own if k > 1 else ():
        e = int(ids[worst, n])
        for words, mask in parts:
            yield 3, f"{_in_expert(words, e)} only", mask & (ids == e)
            yield 3, f"{words} in slot {n} only", mask & (slot == n)


def _by_expert(
    ids: Tensor, served: Tensor, bad: Tensor
) -> Iterator[tuple[str, Tensor]]:
    visited = ids[served].unique().tolist()
    # All of an expert's tokens are bad, if all that it does is.
    suspects = [e for e in visited if bad[((ids == e) & served).any(dim=1)].all()]
    if 0 < len(suspects) < len(visited):
        yield f"in {_experts(suspects)} only", _of(ids, suspects)
    for e in visited if len(visited) > 1 else ():
        yield f"in expert {e} only", ids == e
    for e in visited if len(visited) > 2 else ():
        yield f"in every expert but {e}", served & (ids != e)
    for e in visited[2:-1]:
        yield f"in experts from {e} on only", ids >= e
        yield f"in experts before {e} only", served & (ids < e)
    if len(visited) > 3:
        yield "in experts of odd numbers only", served & (ids % 2 == 1)
        yield "in experts of even numbers only", served & (ids % 2 == 0)


def _in_expert(words: str, e: int) -> str:
    own = words.replace("an expert", f"expert {e}")
    return own if own != words else f"{words} in expert {e}"


def _parts(ids: Tensor, served: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Of tokens, of rows of an expert, of sorted slots."""
    t, k = ids.shape
    for words, tokens in number_sets("token", t):
        yield f"for {words}", tokens[:, None].expand(t, k)
    p, row = position_and_row(torch.where(served, ids, -1))
    of_expert = torch.bincount(ids[served].flatten().long(), minlength=1)
    count = torch.where(served, of_expert[ids.long().clamp(0, len(of_expert) - 1)], 0)
    for words, rows in row_sets(ids):
        yield f"in {words}", rows
    for tile in TILES:
        words = f"in rows of an expert that do not fill a tile of {tile}"
        yield words, row >= count // tile * tile
        yield (
            f"in the last tile of {tile} of an expert",
            row >= (count - 1) // tile * tile,
        )
    for words, of in number_sets("row", int(row.max()) + 1, units=TILES):
        # From a row on: said already.
        if of[0] or not _is_run(of):
            yield f"in {words} of an expert", of[row]
    for words, of in number_sets("position", ids.numel(), units=TILES):
        yield f"at {words} of the slots sorted by expert", of[p]
    for n in count[served].unique()[1:].tolist():
        yield f"in experts of at least {n} tokens", count >= n
        yield f"in experts of less than {n} tokens", count < n


def number_sets(
    what: str, count: int, *, units: tuple[int, ...] = ()
) -> Iterator[tuple[str, Tensor]]:
    """(words, mask [count]): from one on, before one, halves of groups.

    units : multiples at which such sets begin or end; every number if none is given.
    """
    at = torch.arange(count)
    starts = set(range(1, count))
    if units or count > _EVERY_TOKEN:
        steps = units or TILES
        starts = {n for unit in steps for n in range(unit, count, unit)}
        starts = {n for n in starts if n % max(1, count // _STARTS) == 0 or n in steps}
        starts |= {count // unit * unit for unit in steps} - {0, count}
    for n in sorted(starts):
        yield number_words(what, at >= n), at >= n
        yield number_words(what, at < n), at < n
    for half in _HALVES:
        for second in (False, True) if half < count else ():
            mask = (at // half % 2 == 1) == second
            if not _is_run(mask):
                yield number_words(what, mask), mask


def _is_run(mask: Tensor) -> bool:
    at = mask.nonzero()[:, 0]
    return len(at) == 0 or int(at[-1] - at[0]) + 1 == len(at)


def number_words(what: str, mask: Tensor) -> str:
    """``odd tokens``, ``the second 8 of each 16 tokens``, ``tokens 16..36``."""
    at = torch.arange(len(mask))
    for half in _HALVES if len(mask) > 2 and not _is_run(mask) else ():
        for name, one in (("first", "even"), ("second", "odd")):
            if torch.equal(mask, (at // half % 2 == 1) == (name == "second")):
                if half == 1:
                    return f"{one} {what}s"
                return f"the {name} {half} of each {2 * half} {what}s"
    return ranges(what, mask)


def few_words(words: str) -> bool:
    """Whether all of them are said."""
    return not words.endswith("...")


def _of(ids: Tensor, experts: list[int]) -> Tensor:
    return torch.isin(ids, torch.tensor(experts, dtype=ids.dtype))


def _experts(experts: list[int]) -> str:
    return f"expert{'s' * (len(experts) > 1)} {', '.join(map(str, experts))}"
