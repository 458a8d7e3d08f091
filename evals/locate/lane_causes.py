"""A lane of the activation that is wrong, seen through the second GEMM.

If one lane i of an expert is off by d[n] in row n, its rows of ``down`` are off by
d[n] * W2[:, i]: one column of W2, which no other fault looks like. From d follows what
the gate or the up half of the lane must have been off by.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mxmoe.evals.locate.explained import SLACK
from mxmoe.evals.locate.explained import explained
from mxmoe.reference.activation import activate
from mxmoe.reference.types import Activation

# Lanes that are looked for together: two exchanged rows of W1 spoil two, or four.
_LANES = 4
# Of a lane: its rounding to bfloat16.
_ROUNDED = 2.0**-8
# Newton's steps: the activation is smooth between its clamps.
_STEPS = 30


@dataclass(frozen=True, eq=False)
class WrongLane:
    """Lane i of the activation is off by `change` [n], in each row as exactly as
    `near` [n] says."""

    lane: int
    change: torch.Tensor
    near: torch.Tensor


def wrong_lanes(
    residual: torch.Tensor, allowed: torch.Tensor, w2: torch.Tensor
) -> list[WrongLane]:
    """The few lanes that explain `residual` [n, h] within `allowed`; () if none do.

    w2 : [h, i] of the expert. Each lane in turn is the one that explains most of what
    the lanes before it leave (orthogonal matching pursuit).
    """
    if not residual.isfinite().all():
        return []
    size = w2.square().sum(dim=0)
    chosen: list[int] = []
    left = residual
    for _ in range(min(_LANES, len(size))):
        along = torch.where(size > 0, (left @ w2).square() / size, 0).sum(dim=0)
        along[chosen] = -1
        chosen.append(int(along.argmax()))
        change = torch.linalg.lstsq(w2[:, chosen], residual.T, driver="gelsd").solution
        left = residual - change.T @ w2[:, chosen].T
        if explained(residual, left, allowed):
            near = allowed.square().mean(dim=1)
            return [
                WrongLane(lane, change[n], (near / size[lane]).sqrt())
                for n, lane in enumerate(chosen)
            ]
    return []


def held_at_limit(
    lane: WrongLane, gate_up: torch.Tensor, activation: Activation, half: int
) -> float | None:
    """The clamp, if the lane is what that half gives when it is beyond it."""
    wanted = activate(_pair(lane, gate_up), activation)[:, 0] + lane.change
    for limit in (activation.limit, -activation.limit)[: 1 + half]:
        pair = _pair(lane, gate_up)
        pair[:, half] = limit
        near = SLACK * lane.near + _ROUNDED * wanted.abs()
        if bool(((activate(pair, activation)[:, 0] - wanted).abs() <= near).all()):
            return limit
    return None


def other_rows_of_half(
    lane: WrongLane,
    gate_up: torch.Tensor,
    rows: torch.Tensor,
    activation: Activation,
    half: int,
) -> list[int]:
    """Which of `rows` [n, m] give the lane in the place of its gate (0) or up (1)."""
    pair = _pair(lane, gate_up)
    wanted = activate(pair, activation) + lane.change[:, None]
    pairs = pair[:, None].expand(-1, rows.shape[1], -1).clone()
    pairs[..., half] = rows
    near = SLACK * lane.near[:, None] + _ROUNDED * wanted.abs()
    left = (activate(pairs, activation)[..., 0] - wanted).abs()
    return (left <= near).all(dim=0).nonzero()[:, 0].tolist()


def _pair(lane: WrongLane, gate_up: torch.Tensor) -> torch.Tensor:
    return gate_up[:, 2 * lane.lane : 2 * lane.lane + 2].clone()


def half_change(
    lane: WrongLane, gate_up: torch.Tensor, activation: Activation, half: int
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """(change [n] of the gate (0) or up (1) half, how exactly it is known).

    gate_up : [n, 2i], the truth. None where no change of that half gives the lane.
    """
    pair = _pair(lane, gate_up)
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
        ((now - wanted).abs() > SLACK * lane.near)[clear].any()
    ):
        return None
    change = pair[:, half] - gate_up[:, 2 * lane.lane + half]
    return torch.where(clear, change, torch.nan), lane.near / slope.clamp(min=0.05)
