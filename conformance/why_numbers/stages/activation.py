"""Why a traced activation is wrong: what else was made of the traced gate and up.

An output may hide it: what is wrong by little where a sigmoid is almost 0 is within the
bound of the output, and out of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

import torch

from mxmoe.conformance.bounds.propagated import Judged
from mxmoe.conformance.bounds.propagated import half_ulp
from mxmoe.conformance.why_numbers.expert_content import RIGHT
from mxmoe.conformance.why_numbers.honest_size import ALIKE
from mxmoe.conformance.why_numbers.honest_size import likeliest
from mxmoe.conformance.why_numbers.honest_size import part_left
from mxmoe.conformance.why_numbers.layer_steps import Fit
from mxmoe.conformance.why_numbers.layer_steps import Situation
from mxmoe.conformance.why_numbers.layer_steps import Steps
from mxmoe.conformance.why_numbers.layer_steps import clamped
from mxmoe.conformance.why_numbers.layer_steps import gated
from mxmoe.conformance.why_numbers.otherwise.activations import activations_otherwise
from mxmoe.conformance.why_numbers.otherwise.known_activations import known_activations
from mxmoe.conformance.why_numbers.otherwise.stores import STORES
from mxmoe.reference.activation import split_halves
from mxmoe.reference.types import Activation
from mxmoe.reference.types import Arithmetic

Tensor = torch.Tensor
# A constant that is fitted: from a start that is wrong by half, four steps come to a
# thousandth of it.
_STEPS, _DIFFERENCE = 8, 2.0**-8
_DIGITS = (1, 2, 3, 4)


def explain_activation(
    stages: dict[str, Tensor], judged: Judged, s: Situation, arithmetic: Arithmetic
) -> list[str]:
    """Activations that give what was traced, within its bound; [] if none does.

    stages : a trace whose gate_up, if it is there, is within its bound.
    """
    truth = judged.truth["activation"]
    found = stages["activation"].detach().cpu().double().reshape(truth.shape)
    inputs = stages.get("gate_up", judged.truth["gate_up"]).detach().cpu().double()
    inputs = inputs.reshape(judged.truth["gate_up"].shape)
    owned = torch.tensor(list(s.shard.expert_range(s.config)))
    served = torch.isin(s.routing.ids, owned.to(s.routing.ids.dtype))
    wrong = _Wrong(
        found=found[served],
        given=inputs[served],
        truth=truth[served],
        allowed=judged.allowed["activation"][served],
        declared=s.config.activation,
        arithmetic=arithmetic,
    )
    # What the right one explains within the same room, no other one is needed for.
    if wrong.fit("", RIGHT.steps) is not None or not wrong.found.isfinite().all():
        return []
    simple = (
        (other.name, other.steps)
        for other in chain(
            activations_otherwise(1), known_activations(s.config.activation)
        )
    )
    stored = _stored(with_bias=s.part.gate_up_bias is not None)
    fits = [wrong.fit(*one) for one in chain(simple, stored, wrong.constants())]
    # Each lane has a rounding of its own, which columns of an output share.
    named = [fit for fit in fits if fit is not None]
    return [str(fit) for fit in likeliest(named, ALIKE * wrong.found.numel())]


@dataclass(frozen=True, kw_only=True)
class _Wrong:
    """found, truth, allowed : [n, i], of the slots that are served. given : [n, 2i]."""

    found: Tensor
    given: Tensor
    truth: Tensor
    allowed: Tensor
    declared: Activation
    arithmetic: Arithmetic

    def fit(self, name: str, steps: Steps) -> Fit | None:
        """`name`, if what `steps` makes of the traced gate and up is what was found."""
        told = self.made(steps.gated)
        told = told if steps.act is None else steps.act(told)
        room = self.allowed + 2 * half_ulp(told, self.arithmetic.intermediate)
        if not bool(((self.found - told).abs() <= room).all()):
            return None
        before = self.found - self.truth
        return Fit(name, part_left(self.found - told, before, self.allowed))

    def made(self, activate: Callable[[Tensor, Tensor, Activation], Tensor]) -> Tensor:
        """[n, i] of the traced gate and up, which hold their bias."""
        nothing = torch.zeros(self.given.shape[-1], dtype=torch.float64)
        return activate(self.given, nothing, self.declared)

    def constants(self) -> Iterator[tuple[str, Steps]]:
        """alpha, beta or the limit with the value that fits best, to some digits."""
        for name in ("alpha", "beta", "limit"):
            right = getattr(self.declared, name)
            value = self._fitted(name) if math.isfinite(right) else right
            for digits in _DIGITS if value != right and math.isfinite(value) else ():
                told = float(f"{value:.{digits}g}")
                if self.fit("", self._with(name, told)) is not None:
                    words = f"{name} of the activation is {told:g}, not {right:g}"
                    yield words, self._with(name, told)
                    break

    def _with(self, name: str, value: float) -> Steps:
        edit: dict[str, Any] = {name: value}
        other = replace(self.declared, **edit)
        return Steps(gated=lambda z, bias, _: gated(z, bias, other))

    def _fitted(self, name: str) -> float:
        """By Gauss and Newton, from the declared value."""
        value: float = getattr(self.declared, name)
        for _ in range(_STEPS):
            width = max(abs(value), 1.0) * _DIFFERENCE
            here, there = (
                self.made(self._with(name, v).gated) for v in (value, value + width)
            )
            slope, rest = (there - here) / width, self.found - here
            steepness = float(slope.square().sum())
            if not math.isfinite(steepness) or not steepness:
                break
            value += float((slope * rest).sum()) / steepness
        return value


def _stored(*, with_bias: bool) -> Iterator[tuple[str, Steps]]:
    """The gate and up, one of them, the sigmoid or the product in other formats."""
    behind = " with its bias" if with_bias else ""
    for what, store in STORES.items():
        yield f"gate_up {what}{behind}", _rounding(store, gate=True, up=True)
        yield f"gate {what}{behind}", _rounding(store, gate=True)
        yield f"up half {what}{behind}", _rounding(store, up=True)
        sigmoid = partial(_of_sigmoid, store=store)
        yield f"sigmoid of the gate {what}", Steps(gated=sigmoid)
        yield f"gate's swish {what}", Steps(gated=partial(_of_swish, store=store))
        yield f"intermediate {what}", Steps(act=store)


def _rounding(
    store: Callable[[Tensor], Tensor], *, gate: bool = False, up: bool = False
) -> Steps:
    def activate(z: Tensor, bias: Tensor, a: Activation) -> Tensor:
        whole = store(z + bias)
        halves = zip(
            split_halves(z + bias), split_halves(whole), (gate, up), strict=True
        )
        both = [new if edit else old for old, new, edit in halves]
        return gated(torch.stack(both, dim=-1).flatten(-2), 0 * bias, a)

    return Steps(gated=activate)


def _of_sigmoid(
    z: Tensor, bias: Tensor, a: Activation, *, store: Callable[[Tensor], Tensor]
) -> Tensor:
    gate, up = clamped(*split_halves(z + bias), a)
    return gate * store(torch.sigmoid(a.alpha * gate)) * (up + a.beta)


def _of_swish(
    z: Tensor, bias: Tensor, a: Activation, *, store: Callable[[Tensor], Tensor]
) -> Tensor:
    gate, up = clamped(*split_halves(z + bias), a)
    return store(gate * torch.sigmoid(a.alpha * gate)) * (up + a.beta)
