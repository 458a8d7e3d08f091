"""What kernels make of the gate in place of gate * sigmoid(alpha gate).

Curves are close to each other: a sigmoid with alpha = 1.702 is an approximation of
gelu's, and fast ones are approximations of the sigmoid.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch.nn import functional as f

Tensor = torch.Tensor
Curve = Callable[[Tensor, Tensor], Tensor]
"""(the gate, alpha times it) -> what the up half is multiplied by."""

_OF_SWISH = "in place of the gate's swish"
_OF_SIGMOID = "in place of the sigmoid"


def _half(curve: Callable[[Tensor], Tensor]) -> Curve:
    """(1 + curve) / 2 as the sigmoid, of an odd curve from -1 to 1."""
    return lambda gate, x: gate * (1 + curve(x)) / 2


def _pade(x: Tensor) -> Tensor:
    """tanh(x / 2) by its continued fraction, bent so that it meets 1 at 3."""
    half = x / 2
    return (half * (27 + half**2) / (27 + 9 * half**2)).clamp(-1, 1)


def _pade_of_15(x: Tensor) -> Tensor:
    """The same, not bent: Pade's fraction of degrees 3 and 2."""
    half = x / 2
    return (half * (15 + half**2) / (15 + 6 * half**2)).clamp(-1, 1)


def _limited(most: float) -> Curve:
    return lambda gate, x: gate * torch.sigmoid(x.clamp(-most, most))


def _sigmoid_in(dtype: torch.dtype) -> Curve:
    return lambda gate, x: gate * torch.sigmoid(x).to(dtype).to(x.dtype)


CURVES: Mapping[str, Curve] = MappingProxyType(
    {
        f"gelu {_OF_SWISH}": lambda gate, x: f.gelu(gate),
        f"tanh gelu {_OF_SWISH}": lambda gate, x: f.gelu(gate, approximate="tanh"),
        f"relu {_OF_SWISH}": lambda gate, x: gate.relu(),
        f"squared relu {_OF_SWISH}": lambda gate, x: gate.relu() ** 2,
        "sigmoid of the gate alone, without the gate": lambda gate, x: x.sigmoid(),
        f"tanh {_OF_SIGMOID}": lambda gate, x: gate * torch.tanh(x),
        f"hard sigmoid {_OF_SIGMOID}": lambda gate, x: gate * f.hardsigmoid(x),
        "sigmoid of the negative gate": lambda gate, x: gate * torch.sigmoid(-x),
        "no sigmoid at all": lambda gate, x: gate,
    }
)
"""Those that are asked together with other choices, too."""

ALONE: Mapping[str, Curve] = MappingProxyType(
    {
        "gelu's curve of alpha times the gate": lambda gate, x: (
            gate * (1 + torch.erf(x / math.sqrt(2))) / 2
        ),
        "tanh gelu's curve of alpha times the gate": lambda gate, x: (
            gate * (f.gelu(x, approximate="tanh") / x).nan_to_num(nan=0.5)
        ),
        "alpha doubled, as by (1 + tanh(alpha gate)) / 2": _half(torch.tanh),
        f"(1 + erf(alpha gate)) / 2 {_OF_SIGMOID}": _half(torch.erf),
        f"erf {_OF_SIGMOID}": lambda gate, x: gate * torch.erf(x),
        f"hard sigmoid alpha gate / 5 + 1/2 {_OF_SIGMOID}": lambda gate, x: (
            gate * (x / 5 + 0.5).clamp(0, 1)
        ),
        f"hard sigmoid alpha gate / 4 + 1/2 {_OF_SIGMOID}": lambda gate, x: (
            gate * (x / 4 + 0.5).clamp(0, 1)
        ),
        f"hard swish, without alpha, {_OF_SWISH}": lambda gate, x: f.hardswish(gate),
        f"(1 + x / (1 + |x|)) / 2 {_OF_SIGMOID}, x = alpha gate": _half(f.softsign),
        f"(1 + x / (1 + |x|)) / 2 {_OF_SIGMOID}, x = alpha gate / 2": _half(
            lambda x: f.softsign(x / 2)
        ),
        "sigmoid by tanh(x) = x (27 + x^2) / (27 + 9 x^2)": _half(_pade),
        "sigmoid by tanh(x) = x (15 + x^2) / (15 + 6 x^2)": _half(_pade_of_15),
        **{
            f"the sigmoid's argument limited to {most} on both sides": _limited(most)
            for most in (2, 3, 4, 5, 6, 8, 10)
        },
        "sigmoid of alpha times the gate without its sign": lambda gate, x: (
            gate * torch.sigmoid(x.abs())
        ),
        "gate without its sign, but for the sigmoid": lambda gate, x: (
            gate.abs() * torch.sigmoid(x)
        ),
        "exp2 taken for exp, without log2(e)": lambda gate, x: (
            gate * torch.sigmoid(x * math.log(2))
        ),
        "exp taken for exp2, of log2(e) alpha gate": lambda gate, x: (
            gate * torch.sigmoid(x / math.log(2))
        ),
        "sigmoid rounded to float16": _sigmoid_in(torch.float16),
        "sigmoid rounded to bfloat16": _sigmoid_in(torch.bfloat16),
        f"softplus {_OF_SWISH}": lambda gate, x: f.softplus(gate),
        f"softplus of alpha times the gate {_OF_SWISH}": lambda gate, x: f.softplus(x),
        f"mish {_OF_SWISH}": lambda gate, x: f.mish(gate),
        f"elu {_OF_SWISH}": lambda gate, x: f.elu(gate),
        f"leaky relu {_OF_SWISH}": lambda gate, x: f.leaky_relu(gate),
        f"relu up to 6 {_OF_SWISH}": lambda gate, x: f.relu6(gate),
        f"logarithm of the sigmoid {_OF_SWISH}": lambda gate, x: f.logsigmoid(gate),
    }
)
"""Those that are asked by themselves."""
