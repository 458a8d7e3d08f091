"""Roundings that a class does not make, as directions of the residual.

A number that is stored in bfloat16 on the way (the sigmoid, a routing weight, ...)
makes errors of a known value in every element. Where the class rounds behind it
anyway, they are too small to be out of bound, and hardly widen the errors. But the
errors that it makes, D [t, h], are in the residual once, and in that of an honest
candidate not at all: the gain along D is 1 or 0.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from mxmoe.conformance.bounds.propagated import ExpertErrors
from mxmoe.conformance.residual.structure import Situation
from mxmoe.reference.activation import split_halves
from mxmoe.reference.types import Activation

Tensor = torch.Tensor

ONCE = 0.25
"""A gain of less than that is no rounding that was made: one has a gain of 1."""

# Of a unit in the last place: an error that is as near to that of an honest rounding is
# the same one (the factors behind it are powers of two).
_SAME = 2.0**-6


def extra_roundings(situation: Situation) -> tuple[list[str], Tensor]:
    """Names, and what each would add to the output, [d, t, h].

    None where the class has no bfloat16 behind them: they are out of bound there.
    """
    s = situation
    zeros = torch.zeros_like(s.truth["combine"])
    if s.arithmetic.output is not torch.bfloat16:
        return [], zeros[None][:0]
    found: dict[str, Tensor] = {}
    for e in s.experts():
        tokens, p = s.weights_of(e)
        for name, change in _of_expert(s, e, p):
            found.setdefault(name, zeros.clone())[tokens] += change
    honest = _error(s.truth["combine"])
    names = list(found)
    changes = [_without(found[name], honest, s.truth["combine"]) for name in names]
    return names, torch.stack(changes) if changes else zeros[None][:0]


def _of_expert(
    s: Situation, e: ExpertErrors, p: Tensor
) -> Iterator[tuple[str, Tensor]]:
    """What each adds to the outputs of the expert's slots, [n, h]."""
    if s.arithmetic.intermediate is torch.bfloat16:
        honest = _error(e.activation)
        for name, lanes in _of_activation(e.gate_up, s.config.activation):
            change = _without(lanes - e.activation, honest, e.activation)
            yield name, p * torch.einsum("ni,hi->nh", change, e.w2)
    yield "routing weights rounded to bfloat16", _error(p) * e.down


def _of_activation(z: Tensor, activation: Activation) -> Iterator[tuple[str, Tensor]]:
    """The activation with one of its parts in bfloat16: [n, 2i] -> [n, i]."""
    gate, up = split_halves(z)
    gate = gate.clamp(max=activation.limit)
    linear = up.clamp(-activation.limit, activation.limit) + activation.beta
    sigmoid = torch.sigmoid(activation.alpha * gate)
    yield "the sigmoid rounded to bfloat16", gate * _rounded(sigmoid) * linear
    yield "gate * sigmoid rounded to bfloat16", _rounded(gate * sigmoid) * linear
    yield "up + beta rounded to bfloat16", gate * sigmoid * _rounded(linear)


def _rounded(x: Tensor) -> Tensor:
    return x.to(torch.bfloat16).double()


def _error(x: Tensor) -> Tensor:
    return _rounded(x) - x


def _without(change: Tensor, honest: Tensor, value: Tensor) -> Tensor:
    """`change`, but 0 where an honest rounding of `value` makes the same error."""
    unit = value.abs() * torch.finfo(torch.bfloat16).eps
    return torch.where((change - honest).abs() <= _SAME * unit, 0, change)
