"""Tensors of a rank, cut out of the whole layer at any lanes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mxmoe.conformance.why_numbers.ranks.lanes import Lanes
from mxmoe.reference.types import BLOCK
from mxmoe.reference.types import ExpertWeights

Tensor = torch.Tensor
_LOW, _HIGH = 0x0F, 0xF0


def cut_at(
    whole: ExpertWeights, experts: range, lanes: Lanes, names: Sequence[str]
) -> dict[str, Tensor]:
    """Those of the tensors `names` that there are, of some experts, at other lanes."""
    in_blocks = lanes.down.unflatten(0, (-1, BLOCK))
    # A block of which some lanes are nowhere has the others.
    blocks = torch.div(in_blocks.amax(dim=1), BLOCK, rounding_mode="floor")
    rows, found = lanes.rows(), dict[str, Tensor]()
    for name in names:
        if getattr(whole, name) is not None:
            index = rows if name.startswith("gate_up") else blocks
            found[name] = taken(whole, name, experts, index)
    if "down_blocks" in found:
        low, high = (in_blocks >= 0).unflatten(1, (-1, 2)).unbind(dim=2)
        kept = low.byte() * _LOW + high.byte() * _HIGH
        found["down_blocks"] = found["down_blocks"] & kept
    return found


def taken(whole: ExpertWeights, name: str, experts: range, index: Tensor) -> Tensor:
    """Rows of gate_up or blocks of down, where -1 holds zeros; all of the down bias."""
    tensor: Tensor = getattr(whole, name)[experts.start : experts.stop]
    if name == "down_bias":
        return tensor
    axis = 1 if name.startswith("gate_up") else 2
    shape = [1] * tensor.ndim
    shape[axis] = -1
    found = tensor.index_select(axis, index.clamp(min=0))
    return found.masked_fill(index.reshape(shape) < 0, 0)
