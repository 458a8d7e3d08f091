"""One prepared tensor as data: for each entry, the checkpoint entry it comes from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch

from mxmoe.reference.layouts.bit_order import BitOrder

PADDING = -1

# complex128, for its size alone: no integer of torch is as long as the 16 bytes of a
# block, and runs that are one word are gathered twice as fast as runs of two.
_WORD = torch.complex128


@dataclass(frozen=True, kw_only=True)
class IndexMap:
    """Where every entry of one prepared tensor comes from, for one expert.

    source : the field of `ExpertWeights`. index : int64 [rows, ...]; an entry is
    the number of a run of `width` neighbours in the flat source of one expert, or
    `PADDING`, which becomes 0. The prepared tensor, without its expert axis, has
    the shape of `index` with the last axis `width` times as long. dtype, divisor :
    each value is cast to `dtype` (None: kept) and divided by `divisor`. bits : last
    of all, the bits within each word are moved so (None: they stay); then `index`
    speaks of the entries of `plain`, and a word's bits come from four of them.
    """

    source: str
    index: torch.Tensor
    width: int = 1
    dtype: torch.dtype | None = None
    divisor: int = 1
    bits: BitOrder | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The prepared tensor's shape without the expert axis."""
        *lead, last = self.index.shape
        return (*lead, last * self.width)

    def source_at(self, at: tuple[int, ...]) -> int:
        """The flat source entry that belongs at `at` of the prepared tensor.

        Where bits are moved: at `at` of `plain`.
        """
        *lead, last = at
        run, offset = divmod(last, self.width)
        found = int(self.index[(*lead, run)])
        return PADDING if found == PADDING else found * self.width + offset

    def plain(self, prepared: torch.Tensor) -> torch.Tensor:
        """A prepared tensor, bits moved back: each entry is one of the source."""
        return prepared if self.bits is None else self.bits.undo(prepared)

    def gather(self, source: torch.Tensor) -> torch.Tensor:
        """[e, ...] of the source -> [e, *shape]."""
        gathered = source.new_empty((source.shape[0], *self.shape), dtype=self.dtype)
        for out, expert in zip(gathered, source, strict=True):
            # One expert at a time: the index is wider than what it gathers.
            out.copy_(self.gather_expert(expert))
        return gathered

    def gather_expert(self, source: torch.Tensor) -> torch.Tensor:
        """One expert's source -> [*shape]."""
        if source.numel() == 0 or self.index.numel() == 0:
            return source.new_zeros(self.shape, dtype=self.dtype)
        index, padding = (x.to(source.device) for x in self._index_and_padding)
        runs = _as_words(source.reshape(-1, self.width)).index_select(0, index)
        values = runs.index_fill_(0, padding, 0).view(source.dtype).reshape(self.shape)
        values = values.to(self.dtype or source.dtype)
        if self.divisor != 1:
            values = values / self.divisor
        return values if self.bits is None else self.bits.apply(values)

    @cached_property
    def _index_and_padding(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The flat index with run 0 for padding, and where the padding is."""
        flat = self.index.flatten()
        padding = (flat == PADDING).nonzero().flatten()
        index = flat.clamp(min=0)
        # Kept beside `index`: half the memory, where the numbers are small enough.
        fits = int(index.max()) <= torch.iinfo(torch.int32).max
        return index.int() if fits else index, padding


@dataclass(frozen=True, kw_only=True)
class Constant:
    """One value for each expert that the rank owns: [e] float32."""

    value: float

    def expand(self, experts: int) -> torch.Tensor:
        """The prepared tensor."""
        return torch.full((experts,), self.value, dtype=torch.float32)


def _as_words(runs: torch.Tensor) -> torch.Tensor:
    """[n, width] -> [n] with each run as one word, if there is a word that long."""
    if runs.shape[1] == 1:
        return runs.flatten()
    if runs.shape[1] * runs.element_size() != _WORD.itemsize:
        return runs
    # A tensor in a file starts anywhere; a word must start at a multiple of its size.
    if runs.data_ptr() % _WORD.itemsize or runs.storage_offset() % _WORD.itemsize:
        runs = runs.clone()
    return runs.view(_WORD).flatten()


def runs_of(shape: tuple[int, ...], width: int) -> torch.Tensor:
    """The numbers of the runs of a tensor of `shape`, in its own order."""
    *lead, last = shape
    return torch.arange(math.prod(shape) // width).reshape(*lead, last // width)
