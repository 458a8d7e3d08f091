"""What a gate is made into is told from what looks much like it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch.nn import functional as f

from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.case import parse_case
from mxmoe.conformance.cases.designed import make_case_data
from mxmoe.conformance.faults.plain import PLAIN
from mxmoe.conformance.faults.plain import subject_of
from mxmoe.reference.types import Activation

Tensor = torch.Tensor
pytestmark = pytest.mark.usefixtures("one_thread")
CASE = parse_case("e4k2h64i96/tp1r0/t17/s0")
GELU = "gelu in place of the gate's swish"
OF_ALPHA = "gelu's curve of alpha times the gate"


def rational(x: Tensor) -> Tensor:
    """tanh, nearly."""
    return (x * (27 + x * x) / (27 + 9 * x * x)).clamp(-1, 1)


# Of the gate and alpha times it; the words that are said.
CURVES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    f"{GELU}; or tanh {GELU}": lambda gate, x: f.gelu(gate),
    f"{OF_ALPHA}; or tanh {OF_ALPHA}": lambda gate, x: gate * f.gelu(x) / x,
    "alpha doubled, as by (1 + tanh(alpha gate)) / 2": lambda gate, x: (
        gate * (1 + x.tanh()) / 2
    ),
    "sigmoid by tanh(x) = x (27 + x^2) / (27 + 9 x^2)": lambda gate, x: (
        gate * (1 + rational(x / 2)) / 2
    ),
    "hard sigmoid in place of the sigmoid": lambda gate, x: gate * f.hardsigmoid(x),
    "hard sigmoid alpha gate / 5 + 1/2 in place of the sigmoid": lambda gate, x: (
        gate * (0.2 * x + 0.5).clamp(0, 1)
    ),
    "hard swish, without alpha, in place of the gate's swish": lambda gate, x: (
        f.hardswish(gate)
    ),
    "softplus in place of the gate's swish": lambda gate, x: f.softplus(gate),
    "mish in place of the gate's swish": lambda gate, x: f.mish(gate),
    "relu in place of the gate's swish": lambda gate, x: gate.relu(),
    # And still not one of those:
    "alpha of the activation is 3, not 1.702": lambda gate, x: (
        gate * torch.sigmoid(3 * gate)
    ),
}


@cache
def output_of(words: str) -> Tensor:
    def activate(z: Tensor, a: Activation) -> Tensor:
        gate, up = z[..., 0::2].clamp(max=a.limit), z[..., 1::2]
        swish = CURVES[words](gate, a.alpha * gate)
        return swish * (up.clamp(-a.limit, a.limit) + a.beta)

    data = make_case_data(CASE)
    subject = subject_of(replace(PLAIN, activate=activate))
    prepared = subject.prepare(data.weights, data.config, CASE.shard)
    return subject.forward(prepared, data.hidden_states, data.routing)


@pytest.mark.parametrize("words", CURVES)
def test_a_curve_is_told_from_those_that_are_like_it(
    why: Callable[[Case, Tensor], str], words: str
) -> None:
    """An alpha that is fitted may be said as well, where it gives the same numbers."""
    line = why(CASE, output_of(words)).removeprefix("why    behaves as if: ")
    others = line.removeprefix(words)
    assert line.startswith(words)
    assert not others or others.startswith("; or alpha of the activation is")
