"""The activation of another model compiled in, or some of its constants.

A kernel that was written for one model has its constants in the code, and its curve.
One that is given the declared constants may take them in another order.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.nn import functional as f

from mxmoe.conformance.why_numbers.expert_content import Otherwise
from mxmoe.conformance.why_numbers.layer_steps import Steps
from mxmoe.conformance.why_numbers.layer_steps import gated
from mxmoe.conformance.why_numbers.otherwise.gate_curves import Curve
from mxmoe.reference.activation import split_halves
from mxmoe.reference.types import SILU
from mxmoe.reference.types import SWIGLU_OAI
from mxmoe.reference.types import Activation

Tensor = torch.Tensor
_CONSTANTS = ("alpha", "beta", "limit")
# The words that `input_edits` has for them.
_SAID = {
    SILU: "plain silu(gate) * up",
    SWIGLU_OAI: "swiglu with gpt-oss's alpha, limit and +1, as of another layer",
}
# Of the gate, times the up half; neither is clamped (Shazeer, "GLU variants improve
# transformer", 2020, and the linear unit without a curve).
_UNITS: dict[str, Curve] = {
    "gelu(gate) * up": lambda gate, _: f.gelu(gate),
    "tanh gelu(gate) * up": lambda gate, _: f.gelu(gate, approximate="tanh"),
    "relu(gate) * up": lambda gate, _: gate.relu(),
    "sigmoid(gate) * up": lambda gate, _: gate.sigmoid(),
    "gate * up": lambda gate, _: gate,
    "relu(gate)^2 * up": lambda gate, _: gate.relu() ** 2,
}


def known_activations(declared: Activation) -> Iterator[Otherwise]:
    """Each in the place of the declared one: all of its constants, or two, or one."""
    for other in (SWIGLU_OAI, SILU):
        differing = [c for c in _CONSTANTS if getattr(other, c) != getattr(declared, c)]
        for count in range(len(differing), 0, -1):
            for some in itertools.combinations(differing, count):
                if _is_said(other, declared, some):
                    continue
                values: dict[str, Any] = {c: getattr(other, c) for c in some}
                mixed = replace(declared, **values)
                yield Otherwise(name=_named(other, declared, some), steps=_with(mixed))
    yield from _exchanged(declared)
    # Without clamps and beta each is the curve alone, which is asked for by itself.
    if (declared.beta, declared.limit) == (SILU.beta, SILU.limit):
        return
    for name, curve in _UNITS.items():
        whole = f"{name} in place of {declared.name}"
        yield Otherwise(name=whole, steps=Steps(gated=partial(_unit, curve=curve)))


def _exchanged(declared: Activation) -> Iterator[Otherwise]:
    """The declared constants, each in the place of another."""
    values = {c: getattr(declared, c) for c in _CONSTANTS}
    for order in itertools.permutations(_CONSTANTS):
        taken = {c: values[other] for c, other in zip(_CONSTANTS, order, strict=True)}
        moved = [c for c in _CONSTANTS if taken[c] != values[c]]
        # An infinite one is no number but as a limit.
        if not moved or not all(map(math.isfinite, (taken["alpha"], taken["beta"]))):
            continue
        name = f"{' and '.join(moved)} of the activation exchanged"
        if len(moved) == len(_CONSTANTS):
            names = (", ".join(names) for names in (_CONSTANTS, order))
            name = "{} of the activation taken from {}".format(*names)
        yield Otherwise(name=name, steps=_with(replace(declared, **taken)))


def _is_said(other: Activation, declared: Activation, some: tuple[str, ...]) -> bool:
    """Whether `constants` or `activations` have words for it."""
    if len(some) == 1:
        return math.isfinite(getattr(declared, some[0]))
    return other is SILU and some == ("alpha", "beta")


def _named(other: Activation, declared: Activation, some: tuple[str, ...]) -> str:
    values = [f"{c} {getattr(other, c):g}" for c in some]
    first = [", ".join(values[:-1])] if values[1:] else []
    listed = " and ".join((*first, values[-1]))
    others = [c for c in _CONSTANTS if c not in some]
    if all(getattr(other, c) == getattr(declared, c) for c in others):
        return _SAID[other]
    return f"{listed} of {other.name} in activation {declared.name}"


def _with(mixed: Activation) -> Steps:
    return Steps(gated=lambda z, bias, _: gated(z, bias, mixed))


def _unit(z: Tensor, bias: Tensor, _: Activation, *, curve: Curve) -> Tensor:
    gate, up = split_halves(z + bias)
    return curve(gate, gate) * up
