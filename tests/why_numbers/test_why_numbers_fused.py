"""Routing inside of an op that is wrong is named by the output alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from mxmoe.conformance.cases.case import parse_case
from mxmoe.conformance.faults.activation import drop_limit
from mxmoe.conformance.faults.plain import PLAIN
from mxmoe.conformance.faults.plain import changed
from mxmoe.conformance.faults.plain import route
from mxmoe.conformance.faults.plain import subject_of
from mxmoe.conformance.judging.fused import judge_fused
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.judging.trial import repeatable_settings
from mxmoe.conformance.verdict import Failure

Tensor = torch.Tensor
Routed = tuple[Tensor, Tensor]
pytestmark = pytest.mark.usefixtures("one_thread")
CASE = "e8k4h64i96/tp1r0/t17/s0"


def why(candidate: object) -> str:
    with repeatable_settings() as settings:
        judge = Judge(subject_of(candidate), settings, "test")
        with pytest.raises(Failure) as failure:
            judge_fused(judge, parse_case(CASE))
    [line] = (x for x in failure.value.text.splitlines() if x.startswith("why  "))
    return line


def fused(routing: Callable[[Tensor, int], Routed]) -> object:
    return changed(PLAIN, forward_fused=replace(PLAIN, route=routing).forward_fused)


def weighing(weigh: Callable[[Tensor], Tensor]) -> object:
    """With weigh(the chosen logits)."""

    def routing(logits: Tensor, top_k: int) -> Routed:
        ids, _ = route(logits, top_k)
        return ids, weigh(logits.gather(1, ids.long()))

    return fused(routing)


def sigmoids(chosen: Tensor) -> Tensor:
    values = chosen.sigmoid()
    return values / values.sum(dim=1, keepdim=True)


def three_of_four(chosen: Tensor) -> Tensor:
    kept = chosen.softmax(dim=1) * (torch.arange(4) < 3)
    return kept / kept.sum(dim=1, keepdim=True)


def smallest(logits: Tensor, top_k: int) -> Routed:
    ids, _ = route(-logits, top_k)
    return ids, logits.gather(1, ids.long()).softmax(dim=1)


def bias_twice(p: Any, x: Tensor, w: Tensor, b: Any, k: int) -> Tensor:
    return PLAIN.forward_fused(p, x, w, 2 * b, k)


CANDIDATES: dict[str, object] = {
    "sigmoids in place of the softmax": weighing(sigmoids),
    "equal weights": weighing(lambda x: torch.full_like(x, 0.25)),
    "last slot dropped, and what is left made to sum to 1": weighing(three_of_four),
    "only the first slot added": weighing(
        lambda x: x.softmax(dim=1) * (torch.arange(4) < 1)
    ),
    "the smallest logits chosen": fused(smallest),
    "router bias added twice": changed(PLAIN, forward_fused=bias_twice),
    # Not a matter of routing.
    "no clamp": changed(
        PLAIN,
        forward_fused=drop_limit.plant().forward_fused,  # type: ignore[attr-defined]
    ),
}


@pytest.mark.parametrize("words", CANDIDATES)
def test_routing_inside_of_an_op_is_named(words: str) -> None:
    assert why(CANDIDATES[words]) == f"why    behaves as if: {words}"


def test_nothing_is_named_for_noise() -> None:
    random = torch.Generator().manual_seed(0)

    def noisy(*given: Any) -> Tensor:
        out = PLAIN.forward_fused(*given)
        return out + torch.randn(out.shape, generator=random).to(out.dtype)

    line = why(changed(PLAIN, forward_fused=noisy))
    assert line == "why    none of the known hypotheses gives this output"
