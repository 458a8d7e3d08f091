"""Smaller pairs of a law: which token, which tensor, which exponent breaks it."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import replace

import torch

from mxmoe.conformance.cases.designed import CaseData
from mxmoe.conformance.laws.pairs import Pair
from mxmoe.conformance.laws.pairs import Question
from mxmoe.conformance.laws.pairs import edited
from mxmoe.reference.formats import e8m0
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import Routing

Tensor = torch.Tensor
_NEAR = {-1: " (the one before)", 1: " (the next one)"}


def other_tokens(data: CaseData, hidden: Tensor, token: int) -> Iterator[Question]:
    """One other token at a time has its row of `hidden` [t, h]."""
    kept = slice(token, token + 1)

    def pairs() -> Iterator[tuple[str, Pair]]:
        for other in range(len(hidden)):
            if other != token:
                rows = data.hidden_states.clone()
                rows[other] = hidden[other]
                name = f"token {other}{_NEAR.get(other - token, '')}"
                after = replace(data, hidden_states=rows)
                pair = Pair(
                    before=data, after=after, expect=lambda out: out[kept], rows=kept
                )
                yield name, pair

    yield Question(
        says=f"the row of token {token} follows the hidden states of {{}}",
        pairs=pairs(),
    )


def tensors_of_expert(
    data: CaseData, weights: ExpertWeights, expert: int
) -> Iterator[Question]:
    """One tensor at a time is that of `weights`, which differ in `expert` only."""

    def pairs() -> Iterator[tuple[str, Pair]]:
        for name, tensor in weights.tensors().items():
            if tensor is not data.weights.tensors()[name]:
                other = replace(data.weights, **{name: tensor})
                yield name, Pair(before=data, after=replace(data, weights=other))

    yield Question(
        says=f"the output follows {{}} of expert {expert}, which no token visits",
        pairs=pairs(),
    )


def scales_at(data: CaseData, higher: int, lower: int) -> Iterator[Question]:
    """Scale bytes of W1 and W2, and the output, by one exponent more at a time."""
    up, down = data.weights.gate_up_scales, data.weights.down_scales
    most, least = int(up.max()) - e8m0.BIAS, int(down.min()) - e8m0.BIAS
    ids, p = data.routing.ids, data.routing.weights

    def first_gemm() -> Iterator[tuple[str, Pair]]:
        for by in range(1, higher + 1):
            weights = edited(data.weights, gate_up_scales=_raised(by))
            hidden = data.hidden_states / 2.0**by
            name = f"{by} higher (the largest is 2^{most + by}) for an input of 2^-{by}"
            after = replace(data, weights=weights, hidden_states=hidden)
            yield name, Pair(before=data, after=after)

    def second_gemm() -> Iterator[tuple[str, Pair]]:
        for by in range(1, lower + 1):
            weights = edited(
                data.weights,
                down_scales=_raised(-by),
                down_bias=_times(2.0**-by),
            )
            routing = Routing(ids, p * 2.0**by)
            name = f"{by} lower (the smallest is 2^{least - by}), with b2 times 2^-{by}"
            yield (
                name,
                Pair(
                    before=data, after=replace(data, weights=weights, routing=routing)
                ),
            )

    def output() -> Iterator[tuple[str, Pair]]:
        for by in range(1, lower + 1):
            routing = Routing(ids, p * 2.0**-by)
            yield (
                f"2^-{by}",
                Pair(
                    before=data,
                    after=replace(data, routing=routing),
                    expect=_times(2.0**-by),
                ),
            )

    says = "it is broken from W1's scale bytes {} on"
    yield Question(says=says, pairs=first_gemm(), first=True)
    says = "it is broken from W2's scale bytes {}, on, though routing weights make up"
    yield Question(says=says, pairs=second_gemm(), first=True)
    says = "it is broken from an output (by routing weights) of {} times its size on"
    yield Question(says=says, pairs=output(), first=True)


def _raised(by: int) -> Callable[[Tensor], Tensor]:
    return lambda scales: scales + by


def _times(factor: float) -> Callable[[Tensor], Tensor]:
    return lambda x: x * factor
