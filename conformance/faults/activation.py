"""Faults of the gated activation (L3)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch

from mxmoe.conformance.faults.fault import faults_of
from mxmoe.conformance.faults.plain import FLOAT32
from mxmoe.conformance.faults.plain import PLAIN
from mxmoe.conformance.faults.plain import Plain
from mxmoe.conformance.faults.plain import Tensor
from mxmoe.conformance.faults.plain import swiglu
from mxmoe.conformance.verdict import Verdict
from mxmoe.reference.formats import decode
from mxmoe.reference.formats import encode
from mxmoe.reference.types import SILU
from mxmoe.reference.types import Activation

_output = faults_of("L3", "test_output_stays_within_the_bound")
_unsystematic = faults_of("L3", "test_errors_within_the_bound_are_unsystematic")
_spot = faults_of("L3", "test_hot_spot_stays_within_the_bound")

Step = Callable[[Tensor], Tensor]


def _as_it_is(x: Tensor) -> Tensor:
    return x


def _acting(edit: Callable[[Activation], Activation], base: Plain = PLAIN) -> object:
    return replace(base, activate=lambda z, a: swiglu(z, edit(a)))


def _clamping(gate_low: float, up_low: float, base: Plain = PLAIN) -> object:
    def activate(z: Tensor, a: Activation) -> Tensor:
        gate, up = z.unflatten(-1, (-1, 2)).unbind(-1)
        gate = gate.clamp(gate_low * a.limit, a.limit)
        up = up.clamp(up_low * a.limit, a.limit)
        both = torch.stack((gate, up), dim=-1).flatten(-2)
        return swiglu(both, replace(a, limit=math.inf))

    return replace(base, activate=activate)


@_output("huggingface/transformers#40197", "no clamp")
def drop_limit() -> object:
    """No clamp."""
    return _acting(lambda a: replace(a, limit=math.inf))


@_output("vllm-project/vllm-ascend#9259", "up half clamped from above only")
def up_clamp_upper_only() -> object:
    """up' = min(up, limit)."""
    return _clamping(-math.inf, -math.inf)


@_output("anthony-chaudhary/fak#4837", "gate clamped on both sides")
def gate_clamp_symmetric() -> object:
    """The gate is clamped to [-limit, limit]; in class fp32, where it shows."""
    return _clamping(-1, -1, FLOAT32)


@_output("sgl-project/sglang#34540", "no +1 on the up half")
def drop_plus_one() -> object:
    """up' instead of up' + 1."""
    return _acting(lambda a: replace(a, beta=0.0))


@_output("", "alpha taken as 1")
def alpha_of_1() -> object:
    """sigmoid(gate) instead of sigmoid(1.702 gate)."""
    return _acting(lambda a: replace(a, alpha=1.0))


@_output("", "alpha of the activation is 1.70312, not 1.702: rounded to bfloat16")
def alpha_in_bfloat16() -> object:
    """Alpha is 1.703125; in class fp32, where it shows."""
    return _acting(lambda a: replace(a, alpha=1.703125 if a != SILU else 1), FLOAT32)


@_output("microsoft/onnxruntime#28738", "plain silu(gate) * up")
def plain_silu_mul() -> object:
    """silu(gate) * up."""
    return _acting(lambda a: SILU)


@_output(
    "vllm-project/vllm#48312",
    "swiglu with gpt-oss's alpha, limit and +1, as of another layer",
)
def act_params_stale() -> object:
    """The first activation that was seen is used for every layer."""
    seen: list[Activation] = []

    def first(activation: Activation) -> Activation:
        seen.append(activation)
        return seen[0]

    return _acting(first)


@_output("", "sigmoid rounded to float16")
def crude_sigmoid() -> object:
    """A sigmoid by tanh with 11 bits, as fast hardware gives it."""

    def activate(z: Tensor, a: Activation) -> Tensor:
        gate, up = z.unflatten(-1, (-1, 2)).unbind(-1)
        gate, up = gate.clamp(max=a.limit), up.clamp(-a.limit, a.limit)
        sigmoid = ((1 + torch.tanh(gate * (a.alpha / 2))) / 2).half().float()
        return gate * sigmoid * (up + a.beta)

    return replace(FLOAT32, activate=activate)


@_output("", "intermediate cut to bfloat16, not rounded")
def intermediate_cut_off() -> object:
    """The intermediate is cut to bfloat16 instead of rounded."""

    def activate(z: Tensor, a: Activation) -> Tensor:
        return (swiglu(z, a).view(torch.int32) & ~0xFFFF).view(torch.float32)

    return replace(PLAIN, activate=activate)


@_spot(
    "",
    "not finite: exactly the tokens where exp(",
    "leaves float32",
    verdict=Verdict.NONFINITE,
)
def naive_sigmoid() -> object:
    """exp(x) / (1 + exp(x)): Inf / Inf where x is beyond 88."""

    def activate(z: Tensor, activation: Activation) -> Tensor:
        gate, up = z.unflatten(-1, (-1, 2)).unbind(-1)
        gate = gate.clamp(max=activation.limit)
        up = up.clamp(-activation.limit, activation.limit)
        power = (activation.alpha * gate).exp()
        return gate * (power / (1 + power)) * (up + activation.beta)

    return replace(PLAIN, activate=activate)


@_output("", "intermediate quantised to MXFP4")
def activations_in_mxfp4() -> object:
    """The intermediate passes through MXFP4, and the class does not say so."""

    def activate(z: Tensor, a: Activation) -> Tensor:
        return decode(*encode(swiglu(z, a), "floor")).float()

    return replace(PLAIN, activate=activate)


@_output("", "alpha of the activation is 1.7, not 1.702")
def alpha_of_1_7() -> object:
    """Alpha is written with two digits: 1.7; in class fp32, where it shows."""
    return _acting(lambda a: replace(a, alpha=round(a.alpha, 1)), FLOAT32)


@_output("vllm-project/vllm#48312", "alpha and limit of the activation exchanged")
def alpha_taken_for_the_limit() -> object:
    """Two arguments of the kernel change places."""
    return _acting(lambda a: replace(a, alpha=a.limit, limit=a.alpha))


@_unsystematic("", "gain along alpha", "behaves as if: alpha times 1.01")
def alpha_one_percent_off() -> object:
    """Alpha is 1 % too large."""
    return _acting(lambda a: replace(a, alpha=1.01 * a.alpha))


@_unsystematic("", "gain along beta", "behaves as if: beta times 0.998")
def beta_a_fifth_of_a_percent_off() -> object:
    """Beta is 0.2 % too small."""
    return _acting(lambda a: replace(a, beta=0.998 * a.beta))


@_output("", "limit of the activation is 7.02, not 7")
def limit_a_third_of_a_percent_off() -> object:
    """The limit is 0.3 % too large."""
    return _acting(lambda a: replace(a, limit=1.003 * a.limit))


@_unsystematic("", "an exp that is off by (alpha gate)^2 times 0.002")
def exp_of_a_power() -> object:
    """exp(x) is taken as (1 + x / 256) to the power of 256."""

    def activate(z: Tensor, a: Activation) -> Tensor:
        gate, up = z.unflatten(-1, (-1, 2)).unbind(-1)
        gate = gate.clamp(max=a.limit)
        up = up.clamp(-a.limit, a.limit)
        power = (1 - a.alpha * gate / 256).clamp(min=0) ** 256
        return gate / (1 + power) * (up + a.beta)

    return replace(PLAIN, activate=activate)


def _rounding(
    sigmoid: Step = _as_it_is, gated: Step = _as_it_is, linear: Step = _as_it_is
) -> object:
    """With parts of the activation stored otherwise."""

    def activate(z: Tensor, a: Activation) -> Tensor:
        gate, up = z.unflatten(-1, (-1, 2)).unbind(-1)
        gate = gate.clamp(max=a.limit)
        up = up.clamp(-a.limit, a.limit)
        curve = sigmoid(torch.sigmoid(a.alpha * gate))
        return gated(gate * curve) * linear(up + a.beta)

    return replace(PLAIN, activate=activate)


def _bfloat16(x: Tensor) -> Tensor:
    return x.bfloat16().float()


@_unsystematic("", "behaves as if: the sigmoid rounded to bfloat16")
def sigmoid_in_bfloat16() -> object:
    """The sigmoid is stored in bfloat16, and multiplied in float32."""
    return _rounding(sigmoid=_bfloat16)


@_unsystematic("", "behaves as if: gate * sigmoid rounded to bfloat16")
def gated_half_in_bfloat16() -> object:
    """gate' * sigmoid is stored in bfloat16, and multiplied in float32."""
    return _rounding(gated=_bfloat16)


@_unsystematic("", "behaves as if: up + beta rounded to bfloat16")
def up_plus_beta_in_bfloat16() -> object:
    """up' + beta is stored in bfloat16, and multiplied in float32."""
    return _rounding(linear=_bfloat16)


@_output("", "exp2 taken for exp, without log2(e)")
def exp2_without_log2e() -> object:
    """exp2 is the fast one; its argument is not multiplied by log2(e)."""

    def activate(z: Tensor, a: Activation) -> Tensor:
        gate, up = z.unflatten(-1, (-1, 2)).unbind(-1)
        gate = gate.clamp(max=a.limit)
        up = up.clamp(-a.limit, a.limit)
        return gate / (1 + torch.exp2(-a.alpha * gate)) * (up + a.beta)

    return replace(PLAIN, activate=activate)
