"""Why an output is wrong: the layer computed with one step of it done otherwise.

`explain_numbers` edits what goes into the reference. What is done on the way (a format
that a stage passes through, a clamp in another place, a term added too late) has no
input to edit: here the layer is computed again, in float64, with one hook changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch

from mxmoe.conformance.layer_steps import Fit
from mxmoe.conformance.layer_steps import Layer
from mxmoe.conformance.layer_steps import Situation
from mxmoe.conformance.layer_steps import Steps
from mxmoe.conformance.layer_steps import clamped
from mxmoe.conformance.layer_steps import gated
from mxmoe.conformance.layer_steps import mean_square
from mxmoe.conformance.layer_steps import misses
from mxmoe.conformance.layer_steps import through
from mxmoe.reference.activation import split_halves
from mxmoe.reference.types import Activation
from mxmoe.reference.types import Arithmetic

Tensor = torch.Tensor
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def explain_stages(
    found: Tensor, allowed: Tensor, situation: Situation, arithmetic: Arithmetic
) -> list[Fit]:
    """The steps done otherwise under which `found` [t, h] is right.

    allowed : of the layer as it should be; a step done otherwise has about the same.
    """
    layer = Layer(situation, arithmetic)
    right = layer.output(Steps())
    ratio = misses(found, right, allowed, arithmetic)
    unexplained = mean_square(ratio)
    # A step is about every token: the worst one refutes almost all.
    worst = int(ratio.amax(dim=1).argmax())
    at = slice(worst, worst + 1)
    token = Layer(situation.of_tokens(at), arithmetic, like=layer)
    fits = []
    for name, steps in _otherwise(situation.config.activation):
        one = misses(found[at], token.output(steps), allowed[at], arithmetic)
        if not bool((one <= 1).all()):
            continue
        every = misses(found, layer.output(steps), allowed, arithmetic)
        if bool((every <= 1).all()):
            fits.append(Fit(name, mean_square(every) / unexplained))
    return fits


def _otherwise(activation: Activation) -> Iterator[tuple[str, Steps]]:
    for what, store in (
        ("rounded to bfloat16", partial(through, dtype=torch.bfloat16)),
        ("cut to bfloat16, not rounded", _cut),
        ("rounded to float16", partial(through, dtype=torch.float16)),
        ("rounded to float8 (E4M3)", partial(through, dtype=torch.float8_e4m3fn)),
        ("quantised to MXFP8", _mxfp8),
        ("quantised to MXFP4", _mxfp4),
    ):
        yield f"hidden states {what}", Steps(x=store)
        yield f"result of GEMM1 {what}", Steps(z=store)
        yield f"intermediate {what}", Steps(act=store)
        yield f"each slot's result {what}", Steps(y=store)
    for name, one in _ACTIVATIONS.items():
        yield name, Steps(gated=one)
    for unit in (64, 128, 256):

        def whole(k: int, unit: int = unit) -> int:
            return k // unit * unit or k

        words = f"K of {{}} read in whole steps of {unit} only"
        yield words.format("GEMM1"), Steps(first=whole)
        yield words.format("GEMM2"), Steps(last=whole)
        yield words.format("both GEMMs"), Steps(first=whole, last=whole)
    yield "down bias added once a slot, not weighted", Steps(weighs_bias=False)
    yield "routing weight multiplies the input", Steps(weighs_input=True)


def _late_bias(z: Tensor, bias: Tensor, a: Activation) -> Tensor:
    gate, up = clamped(*split_halves(z), a)
    by_gate, by_up = split_halves(bias)
    open_ended = replace(a, limit=math.inf)
    both = torch.stack((gate + by_gate, up + by_up), dim=-1).flatten(-2)
    return gated(both, torch.zeros_like(bias), open_ended)


def _half_bias(z: Tensor, bias: Tensor, a: Activation, *, half: int) -> Tensor:
    kept = bias.clone()
    kept[1 - half :: 2] = 0
    return gated(z, kept, a)


def _with(
    z: Tensor,
    bias: Tensor,
    a: Activation,
    *,
    combine: Callable[[Tensor, Tensor, Activation], Tensor],
) -> Tensor:
    """With combine(gate, up, activation) of the halves that are not clamped."""
    return combine(*split_halves(z + bias), a)


def _both_sides(gate: Tensor, up: Tensor, a: Activation) -> Tensor:
    gate, up = gate.clamp(-a.limit, a.limit), up.clamp(-a.limit, a.limit)
    return gate * torch.sigmoid(a.alpha * gate) * (up + a.beta)


def _up_from_above(gate: Tensor, up: Tensor, a: Activation) -> Tensor:
    gate, up = gate.clamp(max=a.limit), up.clamp(max=a.limit)
    return gate * torch.sigmoid(a.alpha * gate) * (up + a.beta)


def _clamps_exchanged(gate: Tensor, up: Tensor, a: Activation) -> Tensor:
    gate, up = gate.clamp(-a.limit, a.limit), up.clamp(max=a.limit)
    return gate * torch.sigmoid(a.alpha * gate) * (up + a.beta)


def _sigmoid_unclamped(gate: Tensor, up: Tensor, a: Activation) -> Tensor:
    sigmoid = torch.sigmoid(a.alpha * gate)
    gate, up = clamped(gate, up, a)
    return gate * sigmoid * (up + a.beta)


def _one_outside(gate: Tensor, up: Tensor, a: Activation) -> Tensor:
    gate, up = clamped(gate, up, a)
    return gate * torch.sigmoid(a.alpha * gate) * up + a.beta


def _alpha_outside(gate: Tensor, up: Tensor, a: Activation) -> Tensor:
    gate, up = clamped(gate, up, a)
    return a.alpha * gate * torch.sigmoid(gate) * (up + a.beta)


def _sigmoid_of_up(gate: Tensor, up: Tensor, a: Activation) -> Tensor:
    gate, up = clamped(gate, up, a)
    return gate * torch.sigmoid(a.alpha * up) * (up + a.beta)


def _gelu(gate: Tensor, up: Tensor, a: Activation) -> Tensor:
    gate, up = clamped(gate, up, a)
    return torch.nn.functional.gelu(gate) * (up + a.beta)


_ACTIVATIONS: dict[str, Callable[[Tensor, Tensor, Activation], Tensor]] = {
    "gate_up bias added behind the clamps": _late_bias,
    "gate_up bias added to the gate half only": partial(_half_bias, half=0),
    "gate_up bias added to the up half only": partial(_half_bias, half=1),
    "gate clamped on both sides": partial(_with, combine=_both_sides),
    "up half clamped from above only": partial(_with, combine=_up_from_above),
    "clamps of gate and up exchanged": partial(_with, combine=_clamps_exchanged),
    "sigmoid of the gate before its clamp": partial(_with, combine=_sigmoid_unclamped),
    "beta added to the product, not to the up half": partial(
        _with, combine=_one_outside
    ),
    "alpha multiplies the gate, not the sigmoid's argument": partial(
        _with, combine=_alpha_outside
    ),
    "sigmoid of the up half": partial(_with, combine=_sigmoid_of_up),
    "gelu in place of the gate's swish": partial(_with, combine=_gelu),
}


def _cut(x: Tensor) -> Tensor:
    bits = x.float().contiguous().view(torch.int32) & ~0xFFFF
    return bits.view(torch.float32).to(x.dtype)


def _scaled(x: Tensor, emax: int) -> tuple[Tensor, Tensor]:
    """Blocks of 32 over a power of two each, by the rule of the MX specification."""
    blocks = x.unflatten(-1, (-1, 32))
    most = blocks.abs().amax(dim=-1, keepdim=True)
    _, above = torch.frexp(most)
    return blocks, torch.ldexp(torch.ones_like(most), above - 1 - emax)


def _mxfp8(x: Tensor) -> Tensor:
    blocks, scale = _scaled(x, 8)
    return (through(blocks / scale, dtype=torch.float8_e4m3fn) * scale).flatten(-2)


def _mxfp4(x: Tensor) -> Tensor:
    blocks, scale = _scaled(x, 2)
    values = torch.tensor(_E2M1, dtype=x.dtype)
    middles = (values[1:] + values[:-1]) / 2
    near = torch.bucketize((blocks / scale).abs(), middles)
    return (values[near] * blocks.sign() * scale).flatten(-2)
