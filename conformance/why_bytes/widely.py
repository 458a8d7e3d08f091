"""Why bytes differ, searched beyond whole tensors and the usual edits of a chain.

In this order, and the first kind that explains the bytes is told: content of another
expert, layer or tensor; other values; an edit of a chain in a part of the tensor; an
unusual edit; two edits; an edit and other values; an order of rows that is read off.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable

import torch

from mxmoe.conformance.judging.compare_bytes import decoded
from mxmoe.conformance.why_bytes.chain import likeliest
from mxmoe.conformance.why_bytes.chain import one_step
from mxmoe.conformance.why_bytes.chain_edits import Edited
from mxmoe.conformance.why_bytes.chain_edits import extra_steps
from mxmoe.conformance.why_bytes.chain_edits import other_steps
from mxmoe.conformance.why_bytes.chain_lanes import another_place
from mxmoe.conformance.why_bytes.chain_places import where
from mxmoe.conformance.why_bytes.memory import memory_moves
from mxmoe.conformance.why_bytes.row_order import explain_row_order
from mxmoe.conformance.why_bytes.sources import Layers
from mxmoe.conformance.why_bytes.sources import experts_and_values
from mxmoe.conformance.why_bytes.sources import other_experts
from mxmoe.conformance.why_bytes.sources import other_layers
from mxmoe.conformance.why_bytes.sources import other_tensors
from mxmoe.conformance.why_bytes.suspect import Place
from mxmoe.conformance.why_bytes.suspect import Suspect
from mxmoe.conformance.why_bytes.value_edits import Values
from mxmoe.conformance.why_bytes.value_edits import value_guesses
from mxmoe.reference.layouts import PADDING
from mxmoe.reference.layouts.bit_order import WORD_BYTES

# Two edits, and values besides an edit, are tried where a chain runs in about 0.2 ms.
_PAIRS_UP_TO_ENTRIES = 2**14
_VALUES_UP_TO_ENTRIES = 2**17
# So few entries are damage, whatever they hold; a larger share if nothing else fits.
_FEW = 3
_SCATTERED = 0.02
# Words of the first entries that differ refute an order of bits.
_FIRST_ENTRIES = 4096
# Parts of a tensor that are put into words.
_PARTS = 8

# Of entries, some of which are right by chance or are padding.
_EVERYWHERE = 0.5
# Here and there in a tensor, these would fit too much.
_ONLY_IN_A_PART = ("holds", "all zero", "biased exponents limited", "bits")
# Whatever is done to a value in its place, a table of it fits.
_TABLES = ("each", "E2M1 codes")

Told = Iterable[tuple[str, Place]]
Edits = Callable[[Suspect], Edited]


def explain_widely(suspect: Suspect, layers: Layers) -> list[str]:
    """The causes of the first kind that explains the bytes; none if nothing does."""
    kinds: tuple[Callable[[], list[str]], ...] = (
        lambda: _told(suspect, other_experts(suspect)),
        lambda: _told(suspect, other_layers(suspect, layers)),
        lambda: _told(suspect, (*_values(suspect), *_bit_orders(suspect))),
        lambda: _edited(suspect),
        lambda: _told(suspect, other_tensors(suspect)),
        lambda: _told(suspect, _edits_and_values(suspect)),
        lambda: _told(suspect, experts_and_values(suspect)),
        lambda: _told(suspect, _pairs(suspect)),
        lambda: explain_damage(suspect, share=_SCATTERED),
    )
    return next(filter(None, (kind() for kind in kinds)), [])


def explain_damage(suspect: Suspect, *, share: float = 0.0) -> list[str]:
    """A few entries, or a small `share` of them, that nothing else explains."""
    at = suspect.differs.nonzero()
    if len(at) > max(_FEW, share * suspect.differs.numel()):
        return []
    e, m = at[0].tolist()
    owned = suspect.prepared.shard.expert_range(suspect.prepared.config)
    there = only_where(suspect) or f"in expert {owned[e]} first"
    kind = "padding" if int(suspect.index[m]) == PADDING else "a value"
    pair = [x[e, m] for x in (suspect.expected, suspect.found)]
    shown = " for ".join(_decoded(suspect, x) for x in reversed(pair))
    count = "one entry is" if len(at) == 1 else f"{len(at)} entries are"
    return [
        f"{count} damaged, {there}; first {kind}: {shown}. All others are right, so no "
        "step is wrong: something wrote there"
    ]


def only_where(suspect: Suspect) -> str:
    """Where the bytes differ, of a tensor that nothing explains; "" if everywhere."""
    differs, every = suspect.differs, torch.ones_like(suspect.differs)
    if bool((differs.float().mean(dim=1) > _EVERYWHERE).all()):
        return ""
    experts = differs.any(dim=1, keepdim=True).expand_as(differs)
    words = where(suspect, Place(differs, every))
    return (where(suspect, Place(experts, every)) if words is None else words) or ""


def _decoded(suspect: Suspect, value: torch.Tensor) -> str:
    if suspect.index_map.source.endswith("bias"):
        value = value.reshape(1).view(suspect.prepared.found.dtype)[0]
    return decoded(suspect.index_map.source, value)


def _told(suspect: Suspect, causes: Told) -> list[str]:
    """Causes of the whole tensor if there are any, else those of a part of it."""
    whole: list[str] = []
    parts: dict[str, list[str]] = {}
    for words, place in causes:
        if place.everywhere:
            whole.append(words)
        elif not whole and len(parts) < _PARTS:
            part = where(suspect, place)
            parts.setdefault(_share(place) if part is None else part, []).append(words)
    if whole:
        return _merged(likeliest(whole))
    return [
        f"{words}, {part}"
        for part in parts
        for words in _merged(likeliest(parts[part]))
    ]


def _merged(said: list[str]) -> list[str]:
    """One line for an extra step that has the same effect at several places."""
    places: dict[str, list[str]] = {}
    for words in said:
        what, _, at = words.partition(", before ")
        places.setdefault(what, []).append(at)
    return [
        f"{what}, before {' or '.join(filter(None, at))}" if any(at) else what
        for what, at in places.items()
    ]


def _share(place: Place) -> str:
    count, total = int(place.needed.sum()), int(place.changed.sum())
    return f"in {count} of the {total} entries that it would change"


def _values(suspect: Suspect) -> Told:
    """The right entries with other values."""
    wanted, found = (x[suspect.probes] for x in (suspect.expected, suspect.found))
    part = scattered = None
    for words, edit in value_guesses(_kind(suspect), wanted, found, **_sizes(suspect)):
        place = suspect.holds(edit(suspect.expected))
        if place is None:
            continue
        if place.everywhere:
            # What comes later says the same in other words, or less simply.
            simple = not words.startswith(_TABLES)
            yield (words, place) if simple or part is None else part
            return
        if part is None and where(suspect, place) is not None:
            part = words, place
        elif not words.startswith(_ONLY_IN_A_PART):
            scattered = scattered or (words, place)
    told = part or scattered
    if told is not None:
        yield told


def _bit_orders(suspect: Suspect) -> Told:
    """The layout's order of bits missing, inverted or put on twice; words reversed."""
    bits = suspect.index_map.bits
    if bits is None:
        return
    forms: dict[str, Values] = {
        f"missing: {bits}": bits.undo,
        f"{bits} twice": bits.apply,
        f"the inverse of {bits}": lambda x: bits.undo(bits.undo(x)),
        "nibbles swapped after the last step": lambda x: bits.undo(
            _nibbles(bits.apply(x))
        ),
        "bytes of each word in reverse order": lambda x: bits.undo(
            bits.apply(x).unflatten(-1, (-1, WORD_BYTES)).flip(-1).flatten(-2)
        ),
    }
    first = int(suspect.differs.any(dim=0).nonzero()[0]) // WORD_BYTES * WORD_BYTES
    few = slice(first, first + _FIRST_ENTRIES)
    differs = suspect.differs[:, few]
    for words, form in forms.items():
        quick = form(suspect.expected[:, few])
        if torch.equal(quick[differs], suspect.found[:, few][differs]):
            place = suspect.holds(form(suspect.expected))
            if place is not None:
                yield words, place


def _nibbles(x: torch.Tensor) -> torch.Tensor:
    return (x >> 4) | (x << 4)


def _usual(suspect: Suspect) -> Edited:
    yield from one_step(suspect.chain)
    yield from another_place(suspect.chain, suspect.prepared, suspect.config)


def _unusual(suspect: Suspect) -> Edited:
    yield from other_steps(suspect.chain)
    yield from extra_steps(suspect.chain)


def _edited(suspect: Suspect) -> list[str]:
    """Edits of the chain: of the whole tensor, else of a part or an order of rows."""
    kinds = (
        lambda: list(_places(suspect, _usual)),
        lambda: list(_places(suspect, _unusual)),
        lambda: list(memory_moves(suspect)),
    )
    told: list[list[tuple[str, Place]]] = []
    for kind in kinds:
        told.append(kind())
        whole = [cause for cause in told[-1] if cause[1].everywhere]
        if whole and kind is not kinds[-1]:
            whole += [cause for cause in kinds[-1]() if cause[1].everywhere]
        if whole:
            return _told(suspect, whole)
    usual, unusual, moves = told
    return (
        _told(suspect, usual)
        or explain_row_order(suspect)
        or _told(suspect, unusual)
        or _told(suspect, moves)
    )


def _places(suspect: Suspect, edits: Edits) -> Told:
    """Where each edit holds, tried on fewer columns first if that is less to do."""
    narrow = suspect.narrow
    kept = {w for w, chain in edits(narrow) if narrow.place(w, chain) is not None}
    for words, chain in edits(suspect):
        if words in kept:
            place = suspect.place(words, chain)
            if place is not None:
                yield words, place


def _pairs(suspect: Suspect) -> Told:
    """Two usual edits, one after the other."""
    if suspect.index_map.index.numel() > _PAIRS_UP_TO_ENTRIES:
        return
    for first, once in _usual(suspect):
        for second, twice in one_step(once):
            words = f"{first}; {second}"
            place = suspect.place(words, twice)
            if place is not None and place.everywhere:
                yield words, place


def _edits_and_values(suspect: Suspect) -> Told:
    """Other values on top of one edit of the chain or of another expert's content."""
    if suspect.index_map.index.numel() > _VALUES_UP_TO_ENTRIES:
        return
    found = suspect.found[suspect.probes]
    for words, chain in (*_usual(suspect), *_unusual(suspect)):
        runs = suspect.run(chain)
        if runs is None:
            continue
        made = suspect.probed(runs, chain)
        for more, edit in value_guesses(_kind(suspect), made, found):
            if more.startswith(("holds", "all zero", "each")):
                continue
            entries = suspect.entries(runs)
            place = suspect.holds(edit(suspect.values(entries, chain)))
            if place is not None and place.everywhere:
                yield f"{words}; {more}", place
                break


def _kind(suspect: Suspect) -> str:
    return suspect.index_map.source.rpartition("_")[2]


def _sizes(suspect: Suspect) -> dict[str, int]:
    shard = suspect.prepared.shard
    return {
        "tp": shard.tp_size,
        "ep": shard.ep_size,
        "top_k": suspect.prepared.config.top_k,
        "the number of experts": suspect.prepared.config.experts,
    }
