"""A lane of the activation that is wrong, seen through the second GEMM.

If one lane i of an expert is off by d[n] in row n, its rows of ``down`` are off by
d[n] * W2[:, i]: one column of W2, which no other fault looks like. From d follows what
the gate or the up half of the lane must have been off by.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mxmoe.reference.activation import activate
from mxmoe.reference.types import Activation

_SLACK = 2.0
# Newton's steps: the activation is smooth between its clamps.
_STEPS = 30


@dataclass(frozen=True, eq=False)
class WrongLane:
    """Lane i of the activation is off by `change` [n], in each row as exactly as
    `near` [n] says."""

    lane: int
    change: torch.Tensor
    near: torch.Tensor


def wrong_lane(
    residual: torch.Tensor, allowed: torch.Tensor, w2: torch.Tensor
) -> WrongLane | None:
    """The only lane that explains `residual` [n, h] within `allowed`, if there is one.

    w2 : [h, i] of the expert.
    """
    if not residual.isfinite().all():
        return None
    size = w2.square().sum(dim=0)
    change = torch.where(size > 0, residual @ w2 / size, 0)
    explained = (change.square() * size).sum(dim=0)
    for lane in explained.topk(min(3, len(explained))).indices.tolist():
        left = residual - change[:, lane, None] * w2[:, lane]
        if bool((left.abs() <= _SLACK * allowed).all()):
            near = (allowed.square().mean(dim=1) / size[lane]).sqrt()
            return WrongLane(lane, change[:, lane], near)
    return None


def half_change(
    lane: WrongLane, gate_up: torch.Tensor, activation: Activation, half: int
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """(change [n] of the gate (0) or up (1) half, how exactly it is known).

    gate_up : [n, 2i], the truth. None where no change of that half gives the lane.
    """
    pair = gate_up[:, 2 * lane.lane : 2 * lane.lane + 2].clone()
    wanted = activate(pair, activation)[:, 0] + lane.change
    step = 2.0**-20
    for _ in range(_STEPS):
        now = activate(pair, activation)[:, 0]
        moved = pair.clone()
        moved[:, half] += step
        slope = (activate(moved, activation)[:, 0] - now) / step
        pair[:, half] += torch.where(slope.abs() > 2.0**-8, (wanted - now) / slope, 0)
    now = activate(pair, activation)[:, 0]
    moved = pair.clone()
    moved[:, half] += step
    slope = ((activate(moved, activation)[:, 0] - now) / step).abs()
    # A row whose half is clamped, or hardly counts, says nothing.
    clear = slope > 0.05
    if int(clear.sum()) < 4 or bool(
        ((now - wanted).abs() > _SLACK * lane.near)[clear].any()
    ):
        return None
    change = pair[:, half] - gate_up[:, 2 * lane.lane + half]
    return torch.where(clear, change, torch.nan), lane.near / slope.clamp(min=0.05)
