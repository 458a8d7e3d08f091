"""Which row a slot may take in place of its own: what index arithmetic gets wrong.

A slot has four numbers: n = token * top_k + slot, its position p when all slots are
sorted by expert (stable), its row r among the slots of its expert, and its position q
when each expert is padded to whole tiles.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

Tensor = torch.Tensor

# Beyond a buffer: nobody knows what lies there.
UNKNOWN = -1
_STEPS = (1, -1, 2, -2, 3, -3)
# Bits of an offset in elements: of an integer, or of one with a sign.
_WRAPS = (15, 16, 23, 24)
_TABLE = "slot n of a [top_k, t] table"
# Rows that are exchanged: neighbours, and those of a swizzle.
_BITS = (1, 2, 4, 8, 16)
# Fewer tokens are such a set by chance: of 19 there are 3876 sets of four.
_FEWEST = 4
# Of so many, the last is not the only wrong one by chance.
_FEWEST_SLOTS = 8
_RAGGED = "an expert's last rows, which do not fill a tile of"
TILES = (4, 8, 16, 32, 64, 128)


def slot_sources(ids: Tensor) -> Iterator[tuple[str, Tensor]]:
    """(words, the slot n that each slot [t, k] takes the row of, or `UNKNOWN`).

    ids : [t, k]; slots without an expert are sorted behind all others.
    """
    t, k = ids.shape
    n = torch.arange(t * k)
    order, p = _sorted(ids)
    for by in _STEPS:
        yield f"slot {_plus('n', by)}", _at(n + by, t * k)
        yield f"slot {_plus('n', by)}, modulo their number", (n + by) % (t * k)
        behind = _at(p + by, t * k)
        taken = torch.where(behind < 0, behind, order[behind])
        yield f"the slot at {_plus('p', by)}", taken
    yield "slot p", p
    yield "the slot at n, as if sorted by expert still", order[n]
    yield "the slot at the n-th of the sorted ones", order[order]
    yield _TABLE, n % t * k + n // t
    yield "slot n stored as [top_k, t]", n % k * t + n // k
    for tile in TILES:
        q = padded_places(ids, tile).clamp(max=t * k - 1)
        yield f"slot q for tiles of {tile}, at most the last", q
    yield from _of_its_expert(ids, order, p)


def token_sources(ids: Tensor, hidden: int) -> Iterator[tuple[str, Tensor]]:
    """(words, the token that each slot [t, k] takes the hidden states of)."""
    t, k = ids.shape
    for bits in _WRAPS:
        if 2**bits < t * hidden:
            row = torch.arange(t) * hidden % 2**bits // hidden
            words = f"token (token * {hidden} mod 2^{bits}) // {hidden}, as of offsets "
            yield f"{words}that wrap", row.repeat_interleave(k)
    n = torch.arange(t * k)
    _, p = _sorted(ids)
    for name, source in slot_sources(ids):
        # Of token n % t, which is said below.
        if name != _TABLE:
            yield name, torch.where(source < 0, source, source // k)
    row = p - _first(ids)
    for name, number in (("n", n), ("p", p), ("r", row)):
        yield f"token {name} % t", number % t
        yield f"token {name}", _at(number, t)
        yield f"token {name}, at most the last", number.clamp(max=t - 1)
        yield f"token {name} // t", _at(number // t, t)
        yield f"token {name} // (top_k + 1)", number // (k + 1)
        if k > 2:
            yield f"token {name} // (top_k - 1)", _at(number // (k - 1), t)
    yield "token r // top_k", row // k
    yield "the token of its expert's number", _at(ids.flatten().long(), t)
    yield "token 0", torch.zeros_like(n)


def expert_sources(ids: Tensor, experts: int) -> Iterator[tuple[str, Tensor]]:
    """(words, the expert that each slot [t, k] uses, or `UNKNOWN`)."""
    t, k = ids.shape
    n = torch.arange(t * k)
    flat, (order, p) = ids.flatten().long(), _sorted(ids)
    row = p - _first(ids)
    for words, number in (
        ("n", n),
        ("p", p),
        ("r", row),
        ("token", n // k),
        ("slot", n % k),
    ):
        yield f"expert {words} % experts", number % experts
    for name, source in slot_sources(ids):
        taken = torch.where(source < 0, source, flat[source])
        if not torch.equal(taken, flat):
            yield f"the expert that {name} has", taken
    for tile in TILES:
        # One number is read for a tile of sorted rows: that of its first or last.
        yield f"the expert at p // {tile} * {tile}", flat[order[p // tile * tile]]
        end = (p // tile * tile + tile - 1).clamp(max=t * k - 1)
        yield f"the expert at the end of its tile of {tile} of p", flat[order[end]]
        # Tiles are counted where experts are padded, and looked up where they are not.
        count = torch.bincount(flat[flat >= 0], minlength=experts)
        first = padded_places(ids, tile) // tile * tile
        behind = torch.searchsorted(count.cumsum(0), first, right=True)
        words = f"the expert that unpadded rows have at q // {tile} * {tile}"
        yield words, torch.where(flat < 0, flat, behind.clamp(max=experts - 1))


def _of_its_expert(
    ids: Tensor, order: Tensor, p: Tensor
) -> Iterator[tuple[str, Tensor]]:
    first = _first(ids)
    count = (ids.flatten()[:, None] == ids.flatten()).sum(dim=1)
    row = p - first
    for words, other in (
        ("the next row of its expert", (row + 1) % count),
        ("the next row of its expert, the last its own", (row + 1).minimum(count - 1)),
        ("the row before of its expert", (row - 1) % count),
        ("the row before of its expert, the first its own", (row - 1).clamp(min=0)),
        ("the opposite row of its expert", count - 1 - row),
        ("the first row of its expert", torch.zeros_like(row)),
        ("the last row of its expert", count - 1),
    ):
        yield words, order[first + other]
    for bit in _BITS:
        pair = torch.where((row ^ bit) < count, row ^ bit, row)
        yield f"row r xor {bit} of its expert", order[first + pair]
    for tile in TILES:
        yield (
            f"row r % {tile} of its expert, its first tile again",
            order[first + row % tile],
        )
        yield (
            f"the first row of its tile of {tile} of its expert",
            order[first + row // tile * tile],
        )
        before = torch.where(row >= tile, row - tile, row)
        yield f"row r - {tile} of its expert, the tile before", order[first + before]


def sets_of_rows(ids: Tensor, these: Tensor, served: Tensor) -> Iterator[str]:
    """What slots `these` [t, k] of those that are served have in common.

    Which slots are wrong may be known by their tokens only: see `sets_of_tokens`.
    """
    for words, rows in row_sets(ids):
        if torch.equal(rows & served, these) and int(these.sum()) > 1:
            yield words


def tiles_that_are_not_full(ids: Tensor, these: Tensor, served: Tensor) -> list[str]:
    """Tiles of whose rows slots `these` [t, k] are those that fill none."""
    return [
        words
        for words, rows in row_sets(ids)
        if words.startswith(_RAGGED) and torch.equal(rows & served, these)
    ]


def sets_of_tokens(ids: Tensor, tokens: Tensor, served: Tensor) -> Iterator[str]:
    """What exactly the tokens [t] of a mask have a slot of."""
    for words, rows in row_sets(ids):
        some = (rows & served).any(dim=1)
        if torch.equal(some, tokens) and _FEWEST <= int(some.sum()) < len(some):
            yield words


def last_slots(ids: Tensor, served: Tensor) -> Iterator[tuple[str, int]]:
    """(words, n) of the last slot of all, if it is one of a few by chance only.

    served : [t, k].
    """
    if int(served.sum()) < _FEWEST_SLOTS:
        return
    if served[-1, -1]:
        yield "the last slot of the last token", served.numel() - 1
    mine = torch.where(served, ids, UNKNOWN).flatten()
    last = int((mine == mine.max()).nonzero()[-1, 0])
    yield "the last slot when all are sorted by expert", last


def last_tokens(ids: Tensor, tokens: Tensor, served: Tensor) -> Iterator[str]:
    """The last place that the only token of a mask [t] has."""
    if int(tokens.sum()) != 1 or len(tokens) < _FEWEST_SLOTS:
        return
    if tokens[-1]:
        yield f"the last of {len(tokens)} tokens"
    for words, n in last_slots(ids, served):
        if tokens[n // ids.shape[1]]:
            yield f"that of {words}"


def row_sets(ids: Tensor) -> Iterator[tuple[str, Tensor]]:
    """(words, slots [t, k]) that a tile of an expert's rows may treat in its way."""
    _, row = position_and_row(ids)
    count = (ids.flatten()[:, None] == ids.flatten()).sum(dim=1).reshape(ids.shape)
    for tile in TILES:
        last = f"the last row of each full tile of {tile} rows of an expert"
        yield last, row % tile == tile - 1
        yield f"the rows of an expert after its first {tile}", row >= tile
        ragged = (row >= count // tile * tile) & (count > tile)
        yield f"{_RAGGED} {tile}", ragged
        yield (
            f"the first row of each further tile of {tile} rows of an expert",
            (row % tile == 0) & (row >= tile),
        )
    yield "the last row of each expert", row == count - 1
    yield "the first row of each expert", row == 0


def position_and_row(ids: Tensor) -> tuple[Tensor, Tensor]:
    """(p, r) of each slot [t, k]."""
    _, p = _sorted(ids)
    return p.reshape(ids.shape), (p - _first(ids)).reshape(ids.shape)


def _sorted(ids: Tensor) -> tuple[Tensor, Tensor]:
    """(n at each position p, p of each n)."""
    flat = ids.flatten().long()
    last = int(flat.max()) + 1 if len(flat) else 0
    order = torch.where(flat < 0, last, flat).argsort(stable=True)
    return order, order.argsort()


def _first(ids: Tensor) -> Tensor:
    """The smallest p of each slot's expert, [t * k]."""
    _, p = _sorted(ids)
    same = ids.flatten()[:, None] == ids.flatten()
    return torch.where(same, p, len(p)).amin(dim=1)


def padded_places(ids: Tensor, tile: int) -> Tensor:
    """Each slot's place [t * k] where each expert begins at a multiple of `tile`."""
    flat, (_, p) = ids.flatten().long(), _sorted(ids)
    last = int(flat.max()) + 1 if len(flat) else 0
    beyond = torch.where(flat < 0, last, flat)
    count = torch.bincount(beyond, minlength=last + 1)
    padded = -(-count // tile) * tile
    first = (padded.cumsum(0) - padded)[beyond]
    return first + p - _first(ids)


def _at(n: Tensor, count: int) -> Tensor:
    return torch.where((n >= 0) & (n < count), n, UNKNOWN)


def _plus(name: str, by: int) -> str:
    return f"{name} {'+' if by > 0 else '-'} {abs(by)}"
