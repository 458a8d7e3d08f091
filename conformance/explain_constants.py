"""Why an output is wrong: a constant of the layer that has another value.

alpha, beta and the limit of the activation, and the factors of the two biases, are
fitted to the tokens that are furthest off, each by itself: Newton's method on one
number. A value is named only if the whole output is right for the layer that has it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import replace
from typing import Any

import torch

from mxmoe.conformance.layer_steps import Fit
from mxmoe.conformance.layer_steps import Layer
from mxmoe.conformance.layer_steps import Situation
from mxmoe.conformance.layer_steps import Steps
from mxmoe.conformance.layer_steps import gated
from mxmoe.conformance.layer_steps import mean_square
from mxmoe.conformance.layer_steps import misses
from mxmoe.reference.types import Arithmetic

# From a start that is wrong by half, four steps come to a thousandth.
_STEPS = 4
_DIFFERENCE = 2.0**-8
# Tokens that a value is fitted to: some hundred numbers each, for one unknown.
_TOKENS = 4


@dataclass(frozen=True)
class _Constant:
    """name : with ``{}`` for the value. right : what it should be."""

    name: str
    right: float
    of: Callable[[float], Steps]


def explain_constants(
    found: torch.Tensor,
    allowed: torch.Tensor,
    situation: Situation,
    arithmetic: Arithmetic,
) -> list[Fit]:
    """Each constant that has another value, if that makes `found` [t, h] right."""
    layer = Layer(situation, arithmetic)
    right = misses(found, layer.output(Steps()), allowed, arithmetic)
    at = right.amax(dim=1).argsort(descending=True)[:_TOKENS]
    of_few = Layer(situation.of_tokens(at), arithmetic, like=layer)
    fits = []
    for constant in _constants(situation):
        value = _fitted(constant, found[at], allowed[at], of_few)
        for digits in (2, 3, 4) if value is not None else ():
            rounded = float(f"{value:.{digits}g}")
            steps = constant.of(rounded)
            few_left = misses(found[at], of_few.output(steps), allowed[at], arithmetic)
            if rounded == constant.right or not bool((few_left <= 1).all()):
                continue
            left = misses(found, layer.output(steps), allowed, arithmetic)
            if bool((left <= 1).all()):
                part = mean_square(left) / mean_square(right)
                fits.append(Fit(constant.name.format(f"{rounded:g}"), part))
                break
    return fits


def _constants(situation: Situation) -> Iterator[_Constant]:
    a = situation.config.activation
    for name in ("alpha", "beta", "limit"):
        right = getattr(a, name)
        if math.isfinite(right):
            words = f"{name} of the activation is {{}}, not {right:g}"
            yield _Constant(words, right, _activation(name))
    if situation.part.gate_up_bias is not None:
        yield _Constant("gate_up bias times {}", 1.0, _gate_up_bias)
        yield _Constant(
            "down bias times {}", 1.0, lambda v: Steps(down_bias=lambda b: v * b)
        )


def _activation(name: str) -> Callable[[float], Steps]:
    def of(value: float) -> Steps:
        edit: dict[str, Any] = {name: value}
        return Steps(gated=lambda z, b, a: gated(z, b, replace(a, **edit)))

    return of


def _gate_up_bias(value: float) -> Steps:
    return Steps(gated=lambda z, b, a: gated(z, value * b, a))


def _fitted(
    constant: _Constant, found: torch.Tensor, allowed: torch.Tensor, layer: Layer
) -> float | None:
    size = torch.where(allowed > 0, allowed, 1)
    value = constant.right
    for _ in range(_STEPS):
        width = max(abs(value), 1.0) * _DIFFERENCE
        here = layer.output(_unrounded(constant.of(value)))
        there = layer.output(_unrounded(constant.of(value + width)))
        slope = (there - here) / width / size
        steep = float(slope.square().sum())
        if not steep:
            return None
        value += float((slope * (found - here) / size).sum()) / steep
        if not math.isfinite(value) or abs(value) > 100 * (1 + abs(constant.right)):
            return None
    return value


def _unrounded(steps: Steps) -> Steps:
    """Roundings are larger than the differences of so small a step."""
    return replace(steps, act=lambda x: x, y=lambda x: x)
