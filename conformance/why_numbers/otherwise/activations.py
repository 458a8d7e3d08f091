"""The gated activation with one or two of its choices made otherwise.

    (clamp(gate) or gate) * S((clamp(gate) or gate) * alpha ...) * (clamp(up) + beta)

Each choice has few values that kernels have been seen with; all combinations of two
that differ from the specification are a few hundred.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import fields
from dataclasses import replace

import torch

from mxmoe.conformance.why_numbers.expert_content import Otherwise
from mxmoe.conformance.why_numbers.layer_steps import Steps
from mxmoe.conformance.why_numbers.otherwise.gate_curves import ALONE
from mxmoe.conformance.why_numbers.otherwise.gate_curves import CURVES
from mxmoe.reference.activation import split_halves
from mxmoe.reference.types import Activation

Tensor = torch.Tensor


@dataclass(frozen=True, kw_only=True)
class _Choices:
    """The defaults are right; other values name what is done instead."""

    gate: str = ""
    up: str = ""
    argument: str = ""
    alpha: str = ""
    curve: str = ""
    beta: str = ""
    product: str = ""
    halves: str = ""


_OTHERS = {
    "gate": (
        "gate not clamped",
        "gate clamped on both sides",
        "gate clamped from below only",
    ),
    "up": (
        "up half not clamped",
        "up half clamped from above only",
        "up half clamped from below only",
        "up half clamped behind the + beta",
        "up half clamped, and again behind the + beta",
        "up half clamped at 0 too",
        "up half without its sign",
    ),
    "argument": (
        "sigmoid of the gate before its clamp",
        "sigmoid of the up half",
        "gate before its clamp multiplied by the sigmoid of the clamped one",
    ),
    "alpha": (
        "alpha taken as 1",
        "alpha multiplies the gate, not the sigmoid's argument",
        "alpha multiplies both the gate and the sigmoid's argument",
        "alpha inverted",
    ),
    "curve": tuple(CURVES),
    "beta": (
        "no +1 on the up half",
        "beta added to the gate, not to the up half",
        "beta added to the product, not to the up half",
        "beta added to both halves",
        "beta subtracted",
        "beta added twice",
    ),
    "product": (
        "product clamped on both sides",
        "product clamped from above",
        "product clamped on both sides, and not its factors",
        "product clamped from above, and not its factors",
        "up half ignored",
        "gate ignored",
    ),
    "halves": (
        "gate and up swapped",
        "gate taken for both halves",
        "up taken for both halves",
    ),
}


def activations_otherwise(count: int) -> Iterator[Otherwise]:
    """So many choices otherwise: 1 or 2."""
    singles = [(f.name, other) for f in fields(_Choices) for other in _OTHERS[f.name]]
    for some in itertools.combinations(singles, count):
        if len({name for name, _ in some}) == count:
            words = "; ".join(other for _, other in some)
            yield Otherwise(name=_short(words), steps=_steps(dict(some)))
    if count == 1:
        yield from (pair for pair in activations_otherwise(2) if pair.name in _USUAL)
    for other in ALONE if count == 1 else ():
        yield Otherwise(name=other, steps=_steps({"curve": other}))


_SHORT = {
    "gate not clamped; up half not clamped": "no clamp",
    "gate clamped on both sides; up half clamped from above only": (
        "clamps of gate and up exchanged"
    ),
    "alpha taken as 1; no +1 on the up half": "clamped silu(gate) * up",
}


# Two choices that are made together.
_USUAL = set(_SHORT.values())


def _short(words: str) -> str:
    return _SHORT.get(words, words.replace("; ", " and "))


def _steps(choices: dict[str, str]) -> Steps:
    chosen = replace(_Choices(), **choices)
    return Steps(gated=lambda z, b, a: _activated(z + b, a, chosen))


def _activated(z: Tensor, a: Activation, c: _Choices) -> Tensor:
    gate, up = _halves(z, c)
    raw, low, high = gate, -a.limit, a.limit
    if c.product.endswith("not its factors"):
        c = replace(c, gate="not clamped", up="not clamped")
    if c.gate == "":
        gate = gate.clamp(max=high)
    elif c.gate.endswith("both sides"):
        gate = gate.clamp(low, high)
    elif c.gate.endswith("below only"):
        gate = gate.clamp(min=low)
    linear = _linear(up, a, c)
    argument = {
        "sigmoid of the gate before its clamp": raw,
        "sigmoid of the up half": up,
    }
    inside = argument.get(c.argument, gate)
    if c.argument.startswith("gate before"):
        gate = raw
    alpha = {"alpha taken as 1": 1.0, "alpha inverted": 1 / a.alpha}.get(
        c.alpha, a.alpha
    )
    if c.alpha.startswith("alpha multiplies"):
        gate = a.alpha * gate
        alpha = a.alpha if "both" in c.alpha else 1.0
    swish = _curve(gate, alpha * inside, c)
    if c.beta == "beta added to the gate, not to the up half":
        swish = (gate + a.beta) * torch.sigmoid(alpha * inside)
    if c.beta == "beta added to both halves":
        swish = (gate + a.beta) * torch.sigmoid(alpha * (inside + a.beta))
    product = {"up half ignored": swish, "gate ignored": linear}.get(
        c.product, swish * linear
    )
    if c.beta == "beta added to the product, not to the up half":
        product = product + a.beta
    if c.product.startswith("product clamped"):
        product = product.clamp(max=high)
        product = product.clamp(min=low) if "both" in c.product else product
    return product


def _halves(z: Tensor, c: _Choices) -> tuple[Tensor, Tensor]:
    gate, up = split_halves(z)
    return {
        "gate and up swapped": (up, gate),
        "gate taken for both halves": (gate, gate),
        "up taken for both halves": (up, up),
    }.get(c.halves, (gate, up))


def _linear(up: Tensor, a: Activation, c: _Choices) -> Tensor:
    beta = {
        "no +1 on the up half": 0.0,
        "beta added to the gate, not to the up half": 0.0,
        "beta added to the product, not to the up half": 0.0,
        "beta subtracted": -a.beta,
        "beta added twice": 2 * a.beta,
    }.get(c.beta, a.beta)
    limit = a.limit
    if c.up == "":
        up = up.clamp(-limit, limit)
    elif c.up.endswith("above only"):
        up = up.clamp(max=limit)
    elif c.up.endswith("below only"):
        up = up.clamp(min=-limit)
    elif c.up.endswith("at 0 too"):
        up = up.clamp(0, limit)
    elif c.up.endswith("without its sign"):
        up = up.clamp(-limit, limit).abs()
    elif c.up.endswith("+ beta"):
        up = up.clamp(-limit, limit) if "again" in c.up else up
        return (up + beta).clamp(-limit, limit)
    return up + beta


def _curve(gate: Tensor, argument: Tensor, c: _Choices) -> Tensor:
    if not c.curve:
        return gate * torch.sigmoid(argument)
    return (CURVES.get(c.curve) or ALONE[c.curve])(gate, argument)
