"""One prepared tensor as data: for each entry, the checkpoint entry it comes from."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

PADDING = -1


@dataclass(frozen=True, kw_only=True)
class IndexMap:
    """Where every entry of one prepared tensor comes from, for one expert.

    source : the field of `ExpertWeights`. index : int64 [rows, ...]; an entry is
    the number of a run of `width` neighbours in the flat source of one expert, or
    `PADDING`, which becomes 0. The prepared tensor, without its expert axis, has
    the shape of `index` with the last axis `width` times as long. dtype, divisor :
    each value is cast to `dtype` (None: kept) and divided by `divisor`.
    """

    source: str
    index: torch.Tensor
    width: int = 1
    dtype: torch.dtype | None = None
    divisor: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        """The prepared tensor's shape without the expert axis."""
        *lead, last = self.index.shape
        return (*lead, last * self.width)

    def source_at(self, at: tuple[int, ...]) -> int:
        """The flat source entry that belongs at `at` of the prepared tensor."""
        *lead, last = at
        run, offset = divmod(last, self.width)
        found = int(self.index[(*lead, run)])
        return PADDING if found == PADDING else found * self.width + offset

    def gather(self, source: torch.Tensor) -> torch.Tensor:
        """[e, ...] of the source -> [e, *shape]."""
        gathered = source.new_empty((source.shape[0], *self.shape), dtype=self.dtype)
        for out, expert in zip(gathered, source, strict=True):
            # One expert at a time: the index is wider than what it gathers.
            out.copy_(self.gather_expert(expert))
        return gathered

    def gather_expert(self, source: torch.Tensor) -> torch.Tensor:
        """One expert's source -> [*shape]."""
        flat = source.reshape(-1, self.width)
        index = self.index.to(source.device)
        if flat.numel() == 0 or index.numel() == 0:
            return source.new_zeros(self.shape, dtype=self.dtype)
        runs = flat.index_select(0, index.flatten().clamp(min=0))
        runs[index.flatten() == PADDING] = 0
        values = runs.reshape(self.shape).to(self.dtype or source.dtype)
        return values if self.divisor == 1 else values / self.divisor


@dataclass(frozen=True, kw_only=True)
class Constant:
    """One value for each expert that the rank owns: [e] float32."""

    value: float

    def expand(self, experts: int) -> torch.Tensor:
        """The prepared tensor."""
        return torch.full((experts,), self.value, dtype=torch.float32)


def runs_of(shape: tuple[int, ...], width: int) -> torch.Tensor:
    """The numbers of the runs of a tensor of `shape`, in its own order."""
    *lead, last = shape
    return torch.arange(math.prod(shape) // width).reshape(*lead, last // width)
