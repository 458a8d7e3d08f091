"""Where in a tensor a fault is: experts, rows, columns, gates or ups, in words."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mxmoe.conformance.why_bytes.suspect import Place
from mxmoe.conformance.why_bytes.suspect import Suspect
from mxmoe.reference.types import BLOCK_BYTES

# A list of experts longer than this is counted.
_LISTED = 6


@dataclass(frozen=True)
class Axis:
    """What numbers the entries: `at` int64 [m], `count` of them, and two words."""

    one: str
    many: str
    at: torch.Tensor
    count: int

    def span(self, start: int, stop: int) -> str:
        """``rows 3 to 5``, and whether that is the end of all."""
        if stop - start == 1:
            words = f"{self.one} {start}"
        else:
            words = f"{self.many} {start} to {stop - 1}"
        last = "last" if stop - start == 1 else f"last {stop - start}"
        return f"{words} (the {last} of {self.count})" if stop == self.count else words


def where(suspect: Suspect, place: Place) -> str | None:
    """``in expert 3 only, in rows 96 to 127``; "" everywhere; None: in no such part."""
    if place.everywhere:
        return ""
    experts = place.needed.any(dim=1)
    of_all = place.changed.any(dim=1)
    words = []
    if not torch.equal(experts, of_all):
        words.append(_of_experts(suspect, experts, of_all))
    needed, changed = place.needed[experts], place.changed[experts]
    if not torch.equal(needed, changed):
        part = _part(suspect, needed, changed)
        part = part or _of_values(suspect, experts, needed, changed)
        if part is None:
            return None
        words.append(part)
    return ", ".join(words)


def expert_words(experts: Sequence[int], total: int) -> str:
    """``expert 7 (the last)`` or ``experts 0, 2, 4``, in checkpoint numbers."""
    if len(experts) == 1:
        last = " (the last)" if experts[0] == total - 1 and total > 1 else ""
        return f"expert {experts[0]}{last}"
    if len(experts) > _LISTED:
        return f"{len(experts)} experts, from {experts[0]} to {experts[-1]}"
    return f"experts {', '.join(map(str, experts))}"


def _of_experts(suspect: Suspect, experts: torch.Tensor, of_all: torch.Tensor) -> str:
    owned = suspect.prepared.shard.expert_range(suspect.prepared.config)
    there = [owned[int(e)] for e in experts.nonzero()]
    spared = [owned[int(e)] for e in (of_all & ~experts).nonzero()]
    if len(there) > 2 and len(spared) == 1:
        return f"in all experts but {spared[0]}"
    total = suspect.prepared.config.experts
    if len(owned) < total and there == [owned[-1]]:
        return f"in expert {there[0]} (the last of the rank) only"
    return f"in {expert_words(there, total)} only"


def _part(suspect: Suspect, needed: torch.Tensor, changed: torch.Tensor) -> str | None:
    """The words of one axis, or of two, that tell `needed` from the rest."""
    numbered = list(axes(suspect))
    for axis in numbered:
        for words, inside in _choices(axis, needed, changed):
            if torch.equal(needed, changed & inside):
                return f"in {words} only"
    for first in numbered:
        for words, inside in _choices(first, needed, changed):
            for second in numbered:
                if second is first:
                    continue
                for more, also in _choices(second, needed, changed & inside):
                    if torch.equal(needed, changed & inside & also):
                        return f"in {words} and {more} only"
    return None


def _of_values(
    suspect: Suspect, experts: torch.Tensor, needed: torch.Tensor, changed: torch.Tensor
) -> str | None:
    """A range of the values that belong there."""
    wanted = suspect.expected[experts]
    if wanted.dtype != torch.uint8:
        return None
    there = wanted[needed]
    low, high = int(there.min()), int(there.max())
    if not torch.equal(needed, changed & (wanted >= low) & (wanted <= high)):
        return None
    if low == high:
        return f"where 0x{low:02x} belongs only"
    spared = wanted[changed & ~needed]
    if bool((spared < low).all()):
        return f"where 0x{low:02x} or more belongs only"
    if bool((spared > high).all()):
        return f"where 0x{high:02x} or less belongs only"
    return f"where 0x{low:02x} to 0x{high:02x} belongs only"


def _choices(
    axis: Axis, needed: torch.Tensor, changed: torch.Tensor
) -> Iterator[tuple[str, torch.Tensor]]:
    """Parts of an axis that hold all of `needed` and leave something out."""
    at = axis.at[needed.any(dim=0)]
    start, stop = int(at.min()), int(at.max()) + 1
    if start < 0:  # padding has no place in the checkpoint
        return
    # What the guess leaves as it is may belong to the part: as round as it can be.
    spared = axis.at[(changed & ~needed).any(dim=0)]
    before, after = spared[spared < start], spared[spared >= stop]
    start = _roundest(int(before.max()) + 1 if len(before) else 0, start)
    stop = _roundest(stop, int(after.min()) if len(after) else axis.count)
    stop = stop if len(after) else axis.count
    if stop - start < axis.count:
        yield axis.span(start, stop), (axis.at >= start) & (axis.at < stop)
    for step in (2, 4, 8, 16, 32):
        if axis.count <= step or stop - start <= step:
            return
        rest = at % step
        if bool((rest == rest[0]).all()):
            first = int(rest[0])
            words = f"every {step}. of the {axis.many}, from {first}"
            yield words, axis.at % step == first


def _roundest(low: int, high: int) -> int:
    """The number from `low` to `high` that the largest power of two divides."""
    if low <= 0:
        return 0
    power = 1
    while high // (2 * power) * 2 * power >= low:
        power *= 2
    return high // power * power


def axes(suspect: Suspect) -> Iterator[Axis]:
    """Those of the prepared tensor, then those of the checkpoint's."""
    shape = suspect.index_map.shape
    names = {
        1: (("row", "rows"),),
        2: (("row", "rows"), ("column", "columns")),
        3: (
            ("row of tiles", "rows of tiles"),
            ("tile along K", "tiles along K"),
            ("byte of each tile", "bytes of each tile"),
        ),
    }.get(
        len(shape), tuple((f"axis {n} place", f"axis {n}") for n in range(len(shape)))
    )
    yield from checkpoint_halves(suspect)
    left = suspect.positions
    numbered = []
    for (one, many), count in reversed(list(zip(names, shape, strict=True))):
        numbered.append(Axis(one, many, left % count, count))
        left = left // count
    yield from reversed(numbered)
    yield from _checkpoint_axes(suspect)


def checkpoint_halves(suspect: Suspect) -> Iterator[Axis]:
    """Gates and ups, where the rows are both."""
    if suspect.index_map.source.startswith("gate_up"):
        row = suspect.index // _row_length(suspect)
        half = torch.where(suspect.index < 0, -1, row % 2)
        yield _Half("", "", half, 2)


class _Half(Axis):
    def span(self, start: int, stop: int) -> str:
        return ("gates", "ups")[start]


def _checkpoint_axes(suspect: Suspect) -> Iterator[Axis]:
    length = _row_length(suspect)
    if length == suspect.source.shape[1]:
        return
    padding = suspect.index < 0
    row = (suspect.index // length).masked_fill(padding, -1)
    count = suspect.source.shape[1] // length
    yield Axis("checkpoint row", "checkpoint rows", row, count)
    if length > 1:
        unit = BLOCK_BYTES if suspect.index_map.source.endswith("blocks") else 1
        block = (suspect.index % length // unit).masked_fill(padding, -1)
        yield Axis("K block", "K blocks", block, length // unit)
    if suspect.index_map.source.endswith("blocks"):
        byte = (suspect.index % BLOCK_BYTES).masked_fill(padding, -1)
        yield Axis("byte of each block", "bytes of each block", byte, BLOCK_BYTES)


def _row_length(suspect: Suspect) -> int:
    config, source = suspect.prepared.config, suspect.index_map.source
    rows = config.hidden if source.startswith("down") else 2 * config.intermediate
    return suspect.source.shape[1] // rows
