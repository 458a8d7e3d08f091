"""By which rule slots are left out: counts of an expert, places, slots of a token.

A rule that holds by chance is not told: there are some hundreds of them, so what is
left out has to be one of very many sets of as many slots.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch

from mxmoe.conformance.why_numbers.slots.slot_sources import TILES
from mxmoe.conformance.why_numbers.slots.slot_sources import padded_places
from mxmoe.conformance.why_numbers.slots.slot_sources import position_and_row

Tensor = torch.Tensor

# About 2^8 rules: one of them is one of 2^18 sets by chance once in 1000 times.
_FEWEST_SETS = 2.0**18
# Counts kept in 3 bits or more, as a part of a word or in bytes.
_COUNTS = (8, 16, 32, 64, 128, 256, 512, 1024, 4096)
_OVERFLOW = " (a count that overflows?)"
_ROUNDED = " (a number of tiles that is rounded otherwise?)"
_STORED = " (stored, not added?)"
_STEPS = {
    "the next expert": 1,
    "the expert before": -1,
    "the expert after the next": 2,
    "the second expert before": -2,
}
# Experts, or tiles of them, that are computed at a time.
_GROUPS = (2, 4, 8)

Rule = tuple[str, str, Tensor]
"""Which slots, what may be the cause if they are left out or "", their mask [t, k]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LeftOut:
    """gone, known, served : slots [t, k] left out, those of which it is known, all.

    ids : [t, k]. Slots that are added twice are asked for likewise.
    """

    ids: Tensor
    gone: Tensor
    known: Tensor
    served: Tensor

    def rules(self) -> Iterator[Rule]:
        """Each rule that what is gone follows."""
        told = self.known & self.served
        count, all_ = int((self.gone & told).sum()), int(told.sum())
        if math.comb(all_, count) < _FEWEST_SETS:
            return
        for words, cause, slots in (
            *self._of_counts(),
            *self._of_remainders(),
            *self._of_places(),
            *self._of_tokens(),
            *self._of_tiles(),
        ):
            rule = slots & self.served
            if torch.equal(rule & told, self.gone & told):
                yield words, cause, rule

    @cached_property
    def _mine(self) -> Tensor:
        """Expert of each slot, -1 if it is not served."""
        return torch.where(self.served, self.ids.long(), -1)

    @cached_property
    def _row(self) -> Tensor:
        return position_and_row(self._mine)[1]

    @cached_property
    def _count(self) -> Tensor:
        """Slots of each slot's expert, [t, k]."""
        return torch.bincount(self._mine.flatten() + 1)[self._mine + 1]

    def _of_counts(self) -> Iterator[Rule]:
        row, count = self._row, self._count
        for most in _COUNTS:
            words = f"the slots of each expert after its first c mod {most} of c"
            late, whole = row >= count % most, count % most == 0
            yield words, _OVERFLOW, late
            if whole.any():
                yield f"{words}, if that is not 0", _OVERFLOW, late & ~whole
        for tile in TILES:
            full, last = count // tile * tile, (count - 1) // tile * tile
            rows = f"tile of {tile} rows of an expert"
            for words, slots in (
                (f"all behind the last full {rows}", row >= full),
                (f"all before the last {rows}", row < last),
                (f"each full {rows} that others follow", (row < full) & (full < count)),
                (f"the first {rows}", row < tile),
                (f"the first half of each {rows}", row % tile < tile // 2),
                (f"the second half of each {rows}", row % tile >= tile // 2),
            ):
                yield words, "", slots
        yield "all but the last slot of each expert", "", row < count - 1
        yield "the second half of each expert's slots", "", row >= count // 2
        yield "even rows of each expert", "", row % 2 == 0
        yield "odd rows of each expert", "", row % 2 == 1
        if self.gone.any():
            least, most = (int(x) for x in count[self.gone].aminmax())
            yield f"those of experts of at least {least} slots", "", count >= least
            yield f"those of experts of at most {most} slots", "", count <= most

    def _of_remainders(self) -> Iterator[Rule]:
        """Rows that a wrong number of tiles leaves out, by counts of an expert."""
        row, count, gone = self._row, self._count, self.gone
        each = "of each expert whose number of slots is"
        for tile in TILES if gone.any() else ():
            over = count % tile
            behind, last = row >= count - over, row >= (count - 1) // tile * tile
            yield f"the last tile of {tile} rows of each expert", "", last
            least, most = (int(n) for n in over[gone].aminmax())
            multiple = f"a multiple of {tile}"
            plus = f" plus {least}" * (least > 0)
            same = over == least
            words = f"the last row {each} {multiple}{plus}"
            rules = [(words, same & (row == count - 1))]
            if not least:
                words = f"the last tile of {tile} rows {each} {multiple}"
                rules.append((words, same & last))
            few = behind & (over <= most)
            if most > 1 and not torch.equal(few, behind):
                words = f"all behind the last full tile {each} at most {most} above"
                rules.append((f"{words} {multiple}", few))
            for words, slots in rules:
                yield words, _ROUNDED, slots
                more = slots & (count > tile)
                if not torch.equal(more, slots):
                    yield f"{words}, and more than {tile}", _ROUNDED, more

    def _of_places(self) -> Iterator[Rule]:
        (t, k), p = self.ids.shape, position_and_row(self._mine)[0]
        n = torch.arange(t * k).reshape(t, k)
        sorted_ = "when all are sorted by expert"
        for words, number in ((f"{sorted_}, slots", p), ("slots", n)):
            if self.gone.any():
                first, last = (int(x) for x in number[self.gone].aminmax())
                from_, until = number >= first, number <= last
                yield f"{words} from number {first} on", "", from_
                yield f"{words} before number {last + 1}", "", until
                yield f"{words} of numbers {first} to {last}", "", from_ & until
        for tile in TILES:
            place = padded_places(self._mine, tile).reshape(t, k)
            where = f"each expert is padded to tiles of {tile}"
            for name, end in (
                ("top_k * t", t * k),
                ("top_k * t, rounded up to a tile", -(-t * k // tile) * tile),
                ("t", t),
            ):
                yield f"where {where}, rows from {name} on", "", place >= end

    def _of_tokens(self) -> Iterator[Rule]:
        """What other slots of its token have in common with a slot's own."""
        mine, k = self._mine, self.ids.shape[1]
        own, other = mine[:, :, None], mine[:, None, :]
        slot, beside = torch.arange(k)[:, None], torch.arange(k)[None]
        both = (other >= 0) & (slot != beside)
        found = {f"visits {name}": other == own + by for name, by in _STEPS.items()}
        found |= {
            "visits a later expert": other > own,
            "visits an earlier expert": other < own,
            "has another slot": both,
            "has a later slot": (beside > slot).expand_as(both),
            "has an earlier slot": (beside < slot).expand_as(both),
        }
        for size in _GROUPS:
            near, lanes = other // size == own // size, slot // size == beside // size
            group = f"of its group of {size}"
            found |= {
                f"visits another expert {group} (e // {size})": near,
                f"visits a later expert {group} (e // {size})": near & (other > own),
                f"visits an earlier expert {group} (e // {size})": near & (other < own),
                f"has a later slot {group}": lanes & (beside > slot),
                f"has an earlier slot {group}": lanes & (beside < slot),
            }
        for words, at in found.items():
            slots = (at & both).any(dim=2)
            yield f"where the token also {words}", _STORED, slots

    def _of_tiles(self) -> Iterator[Rule]:
        """What tiles that are computed at a time do to the tokens that they share.

        A launch numbers the tiles of all experts in turn; an expert without slots has
        none.
        """
        mine = self._mine
        for tile in TILES:
            number = (mine * (mine.numel() + 1) + self._row // tile).masked_fill(
                mine < 0, -1
            )
            number = number.flatten().unique(return_inverse=True)[1].reshape(mine.shape)
            number = number - int((mine < 0).any())
            own, other = number[:, :, None], number[:, None, :]
            for size in _GROUPS:
                near = (own // size == other // size) & (mine >= 0)[:, None, :]
                for which, at in (
                    ("a later", other > own),
                    ("an earlier", other < own),
                ):
                    words = (
                        f"where the token also has a row in {which} tile of its group "
                        f"of {size} tiles of {tile} rows"
                    )
                    yield words, _STORED, (near & at).any(dim=2)
