"""The directions along which constants of the activation may be off are derivatives."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from mxmoe.conformance.residual.gains import CONSTANTS
from mxmoe.conformance.residual.gains import of_constants
from mxmoe.reference.activation import activate
from mxmoe.reference.activation import split_halves
from mxmoe.reference.types import GPT_OSS_20B
from mxmoe.reference.types import SILU

GPT_OSS = GPT_OSS_20B.activation
# Of a central difference in float64: (machine epsilon)**(1/3).
STEP = 2.0**-17
# Both sides of both clamps, and between, but on none: there is no derivative there.
Z = 16 * torch.rand(64, 128, generator=torch.Generator().manual_seed(1)).double() - 8


def changed(name: str, by: float) -> torch.Tensor:
    """The activation of Z with one constant times 1 + `by`."""
    a = GPT_OSS
    if name == CONSTANTS[-1]:
        gate, up = split_halves(Z)
        gate, up = gate.clamp(max=a.limit), up.clamp(-a.limit, a.limit)
        power = torch.exp(-a.alpha * gate) * (1 - by * (a.alpha * gate) ** 2)
        return gate / (1 + power) * (up + a.beta)
    field = {"alpha": "alpha", "beta": "beta", "the limit": "limit"}[name]
    return activate(Z, replace(a, **{field: getattr(a, field) * (1 + by)}))


@pytest.mark.parametrize("name", CONSTANTS)
def test_a_constants_direction_is_what_a_small_change_of_it_does(name: str) -> None:
    difference = (changed(name, STEP) - changed(name, -STEP)) / (2 * STEP)
    expected = of_constants(Z, GPT_OSS)[name]
    assert difference.abs().max() > 1
    torch.testing.assert_close(difference, expected, rtol=1e-6, atol=1e-6)


def test_without_a_limit_nothing_goes_along_it() -> None:
    assert math.isinf(SILU.limit)
    assert not of_constants(Z, SILU)["the limit"].any()
