"""What of the first GEMM explains lanes of the activation that are wrong."""

from __future__ import annotations

from dataclasses import replace

import torch

from mxmoe.conformance.bounds.own import judge_own
from mxmoe.evals.locate.cause import Cause
from mxmoe.evals.locate.divergence import Divergence
from mxmoe.evals.locate.lane_causes import WrongLane
from mxmoe.evals.locate.lane_causes import half_change
from mxmoe.evals.locate.lane_causes import held_at_limit
from mxmoe.evals.locate.lane_causes import other_rows_of_half
from mxmoe.evals.locate.layer import LayerResult
from mxmoe.evals.locate.product_causes import Product
from mxmoe.evals.locate.product_causes import column_cause
from mxmoe.reference.formats import decode
from mxmoe.reference.types import Activation

HALVES = ("gate", "up")


def lane_words(
    result: LayerResult, found: Divergence, lanes: list[WrongLane]
) -> list[Cause]:
    """What explains the first of `lanes`, and which others there are."""
    first, *others = sorted(lanes, key=lambda lane: lane.lane)
    known = _of_lane(result, found, first)
    if not others:
        return known
    beside = ", ".join(str(lane.lane) for lane in others)
    lanes_word = "lane" if len(others) == 1 else "lanes"
    return [
        replace(
            cause, text=f"{cause.text}; {lanes_word} {beside} of the activation too"
        )
        for cause in known
    ]


def _of_lane(result: LayerResult, found: Divergence, lane: WrongLane) -> list[Cause]:
    under, expert = result.under, found.expert
    assert expert is not None
    at, w, activation = found.rows_of(expert), under.weights, under.config.activation
    own = judge_own(under.layer(), {})
    z, near = own.truth["gate_up"][at], own.allowed["gate_up"][at]
    x = under.inputs.hidden_states[at.any(dim=1)].double()
    w1 = decode(w.gate_up_blocks[expert], w.gate_up_scales[expert])
    bias = torch.zeros(len(w1)) if w.gate_up_bias is None else w.gate_up_bias[expert]
    products = x @ w1.T
    causes = []
    for half, word in enumerate(HALVES):
        column = 2 * lane.lane + half
        words = _held(lane, z, activation, half) or _computed(
            lane, z, products, bias.double(), activation, half
        )
        known = half_change(lane, z, activation, half)
        if words is None and known is not None:
            change, exactly = known
            rows = change.isfinite()
            product = Product(
                inputs=x[rows],
                weights=w1[column : column + 1],
                bias=bias[column : column + 1].double(),
                residual=change[rows, None],
                allowed=(exactly + near[:, column])[rows, None],
                bad=torch.ones(int(rows.sum()), 1, dtype=torch.bool),
            )
            cause = column_cause(product, 0)
            words = None if cause is None else cause.words(float(product.bias[0]))
        if words is not None:
            text = f"{word} {lane.lane}: {words}"
            causes.append(Cause(text=text, stage="gate_up", column=column))
    if len(causes) == 1:
        _, _, text = causes[0].text.partition(": ")
        return [replace(causes[0], text=text)]
    if causes:
        return causes
    text = f"lane {lane.lane} of the activation explains every row"
    return [Cause(text=text, stage="activation", column=lane.lane)]


def _held(
    lane: WrongLane, z: torch.Tensor, activation: Activation, half: int
) -> str | None:
    limit = held_at_limit(lane, z, activation, half)
    return None if limit is None else f"held at {limit:g} in every row"


def _computed(
    lane: WrongLane,
    z: torch.Tensor,
    products: torch.Tensor,
    bias: torch.Tensor,
    activation: Activation,
    half: int,
) -> str | None:
    """Whether the half is another row's product [n, M], beside either bias."""
    column = 2 * lane.lane + half
    for whose, added in (("its own", bias[column]), ("that row's", bias)):
        rows = other_rows_of_half(lane, z, products + added, activation, half)
        if len(rows) == 1 and rows[0] != column:
            return f"computed with the weights of row {rows[0]} and {whose} bias"
    return None
