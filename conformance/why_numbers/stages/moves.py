"""Why a traced stage is wrong: it is the right one in another order, or weighted.

What is computed behind it may be right all the same: only what is shown is not.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator

import torch

from mxmoe.conformance.bounds.propagated import U_FLOAT32
from mxmoe.conformance.bounds.propagated import Judged
from mxmoe.conformance.why_numbers.layer_steps import Situation

Tensor = torch.Tensor
_Move = Callable[[Tensor], Tensor]


def explain_moved_stage(
    stage: str, found: Tensor, judged: Judged, s: Situation
) -> list[str]:
    """The moves of the whole stage [t, k, rows] that give `found`; [] if none does."""
    truth, allowed = judged.truth[stage], judged.allowed[stage]
    got = found.detach().cpu().double().reshape(truth.shape)
    names = []
    for words, move in _moves(s):
        told, room = move(truth), move(allowed).abs()
        # What is weighted is rounded once more.
        room = room + 2 * U_FLOAT32 * told.abs()
        same = torch.equal(told, truth)
        if not same and bool(((got - told).abs() <= room).all()):
            names.append(words)
    return names


def _moves(s: Situation) -> Iterator[tuple[str, _Move]]:
    weights = s.routing.weights.double()[..., None]
    yield "multiplied by the routing weight", lambda x: x * weights
    yield "divided by the routing weight", lambda x: x / weights.where(weights != 0, 1)
    yield "slots in reverse order", lambda x: x.flip(1)
    yield "slots of the token before", lambda x: x.roll(1, 0)
    yield (
        "columns de-interleaved, even ones first",
        lambda x: torch.cat((x[..., 0::2], x[..., 1::2]), dim=-1),
    )
    yield (
        "columns de-interleaved, odd ones first",
        lambda x: torch.cat((x[..., 1::2], x[..., 0::2]), dim=-1),
    )
    yield (
        "columns of both halves interleaved",
        lambda x: torch.stack(x.chunk(2, dim=-1), dim=-1).flatten(-2),
    )
    yield "columns reversed", lambda x: x.flip(-1)
    yield "halved", lambda x: x / 2
    yield "doubled", lambda x: 2 * x
    yield "the sign inverted", torch.neg
