"""Plans of a launch that are wrong or old are named: where experts begin, whose ids."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from mxmoe.conformance.cases.case import parse_case
from mxmoe.conformance.faults.plain import PLAIN
from mxmoe.conformance.faults.plain import changed
from mxmoe.conformance.faults.plain import subject_of
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.judging.numbers import judge_output
from mxmoe.conformance.judging.trial import repeatable_settings
from mxmoe.conformance.verdict import Failure
from mxmoe.reference.types import Routing

Tensor = torch.Tensor
pytestmark = pytest.mark.usefixtures("one_thread")

CASE = "e8k2h64i96/tp1r0/t37/s0"
Forward = Callable[..., Tensor]


def why(forward: Forward, *words: str) -> str:
    """The line about the cause of the last case; the others are right."""
    *before, last = map(parse_case, words)
    candidate = changed(PLAIN, forward=forward, trace=None)
    with repeatable_settings() as settings:
        judge = Judge(subject_of(candidate), settings, "test")
        for case in before:
            judge_output(judge, case)
        with pytest.raises(Failure) as failure:
            judge_output(judge, last)
    (line,) = (x for x in failure.value.text.splitlines() if x.startswith("why  "))
    return line.removeprefix("why    ")


def routed(edit: Callable[[Routing, int], Routing]) -> Forward:
    """Right but for its routing; `edit` is told how many experts there are."""

    def forward(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
        return PLAIN.forward(p, x, edit(r, p.config.experts))

    return forward


def padded_places(ids: Tensor, experts: int, tile: int) -> Tensor:
    """[t * k], where each expert begins at a multiple of `tile`."""
    flat, first = ids.flatten().long(), 0
    at = torch.zeros_like(flat)
    for e in range(experts):
        mine = (flat == e).nonzero()[:, 0]
        at[mine] = first + torch.arange(len(mine))
        first += -(-len(mine) // tile) * tile
    return at


def weights_by_place(r: Routing, experts: int) -> Routing:
    at = padded_places(r.ids, experts, 16).clamp(max=r.ids.numel() - 1)
    return Routing(r.ids, r.weights.flatten()[at].view(r.weights.shape))


def experts_by_unpadded_tile(r: Routing, experts: int) -> Routing:
    begin = padded_places(r.ids, experts, 16) // 16 * 16
    ends = torch.bincount(r.ids.flatten(), minlength=experts).cumsum(0)
    found = (begin[:, None] >= ends).sum(dim=1).clamp(max=experts - 1)
    return Routing(found.view(r.ids.shape).to(r.ids.dtype), r.weights)


EDITS: dict[str, Callable[[Routing, int], Routing]] = {
    "takes the weight of slot q for tiles of 16, at most the last,": weights_by_place,
    "contents of the expert that unpadded rows have at q // 16 * 16,": (
        experts_by_unpadded_tile
    ),
}


@pytest.mark.parametrize("words", EDITS)
def test_where_padded_experts_begin_is_told_from_where_others_do(words: str) -> None:
    line = why(routed(EDITS[words]), CASE)
    assert words in line
    assert "q = its position where each expert is padded to whole tiles" in line


def keeping(*, ids: bool, weights: bool) -> Forward:
    """What it was given first is used again for all calls of that shape."""
    first: dict[tuple[int, ...], Routing] = {}

    def edit(r: Routing, _: int) -> Routing:
        old = first.setdefault(tuple(r.ids.shape), r)
        return Routing(old.ids if ids else r.ids, old.weights if weights else r.weights)

    return routed(edit)


OLD = {
    "expert ids of the former call,": keeping(ids=True, weights=False),
    "routing weights of the former call,": keeping(ids=False, weights=True),
    "expert ids and routing weights of the former call,": keeping(
        ids=True, weights=True
    ),
}


@pytest.mark.parametrize("words", OLD)
def test_the_routing_of_the_former_call_is_named(words: str) -> None:
    line = why(OLD[words], CASE, "e8k2h64i96/tp1r0/t37/s5")
    assert line.startswith(f"behaves as if: {words} for slots of this one (in case ")
