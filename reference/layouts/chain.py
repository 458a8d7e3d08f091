"""A prepared tensor as the chain of steps that leads to it from the checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import replace

import torch

from mxmoe.reference.layouts.bit_order import BitOrder
from mxmoe.reference.layouts.index_map import IndexMap
from mxmoe.reference.layouts.index_map import runs_of
from mxmoe.reference.layouts.steps import Step
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import expected_tensors


@dataclass(frozen=True, kw_only=True)
class Chain:
    """From one field of `ExpertWeights` to one prepared tensor.

    steps : in order, on [rows, columns] of one expert, a column being a run of
    `width` entries (16 bytes for blocks, where every step moves them whole).
    dtype, divisor, bits : what becomes of the values, see `IndexMap`.
    """

    source: str
    steps: tuple[Step, ...]
    width: int = 1
    dtype: torch.dtype | None = None
    divisor: int = 1
    bits: BitOrder | None = None

    def index_map(self, config: MoEConfig) -> IndexMap:
        """Run the chain on the source's own positions."""
        index = runs_of(_expert_shape(self.source, config), self.width)
        for step in self.steps:
            index = step.apply(index)
        return IndexMap(
            source=self.source,
            index=index.contiguous(),
            width=self.width,
            dtype=self.dtype,
            divisor=self.divisor,
            bits=self.bits,
        )

    def restore(self, prepared: torch.Tensor, config: MoEConfig) -> torch.Tensor:
        """Prepared [e, ...] -> the source's shape; what the rank lacks is 0.

        Values are multiplied by `divisor`, in float64 where that is not 1.
        """
        shape = _expert_shape(self.source, config)
        positions = runs_of(tuple(prepared.shape[1:]), self.width)
        for step in reversed(self.steps):
            positions = step.undo(positions)
        back = IndexMap(source=self.source, index=positions.flatten(), width=self.width)
        plain = prepared if self.bits is None else self.bits.undo(prepared)
        found = back.gather(plain).reshape(prepared.shape[0], *shape)
        return found if self.divisor == 1 else found.double() * self.divisor

    def without(self, step: int) -> Chain:
        """The chain with one step forgotten."""
        return replace(self, steps=self.steps[:step] + self.steps[step + 1 :])


def _expert_shape(source: str, config: MoEConfig) -> tuple[int, ...]:
    shape, _ = expected_tensors(config)[source]
    return shape[1:]
