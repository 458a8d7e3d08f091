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
    least = int(data.weights.down_scales.min()) - e8m0.BIAS
    ids, p = data.routing.ids, data.routing.weights

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

    yield from gate_up_scales_at(data, higher)
    says = "it is broken from W2's scale bytes {}, on, though routing weights make up"
    yield Question(says=says, pairs=second_gemm(), first=True)
    says = "it is broken from an output (by routing weights) of {} times its size on"
    yield Question(says=says, pairs=output(), first=True)


def gate_up_scales_at(data: CaseData, higher: int) -> Iterator[Question]:
    """Scale bytes of W1 by one exponent more at a time, or one less if `higher` < 0."""
    scales = data.weights.gate_up_scales
    step = 1 if higher > 0 else -1
    size = "largest" if higher > 0 else "smallest"
    end = int(scales.max() if higher > 0 else scales.min()) - e8m0.BIAS

    def pairs() -> Iterator[tuple[str, Pair]]:
        for by in range(step, higher + step, step):
            way = f"{abs(by)} {'higher' if higher > 0 else 'lower'}"
            name = f"{way} (the {size} is 2^{end + by}) for an input of 2^{-by}"
            yield name, with_gate_up_scales(data, by)

    says = "it is broken from W1's scale bytes {} on"
    yield Question(says=says, pairs=pairs(), first=True)


def with_gate_up_scales(data: CaseData, by: int) -> Pair:
    """Scale bytes of W1 that are so much higher, and an input that makes up for it."""
    weights = edited(data.weights, gate_up_scales=_raised(by))
    hidden = data.hidden_states * 2.0**-by
    return Pair(before=data, after=replace(data, weights=weights, hidden_states=hidden))


def _raised(by: int) -> Callable[[Tensor], Tensor]:
    return lambda scales: scales + by


def _times(factor: float) -> Callable[[Tensor], Tensor]:
    return lambda x: x * factor
