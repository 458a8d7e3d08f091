"""How far an honest candidate may be from the truth, per element and per stage.

The truth is float64. A candidate of a declared arithmetic class rounds at named
points; each rounding is propagated to the stages behind it in two parts:

    sigma   standard deviation of what rounds to nearest, independently
    eta     what does not average out: truncation, single roundings, exp

and a stage may be off by  CONFIDENCE * sigma + eta  (plus its own final rounding).

Units: u = 2**-24 for float32; a value v in bfloat16 rounds by at most
half_ulp(v) = 2**(floor(log2 |v|) - 8), uniformly, i.e. sigma = half_ulp / sqrt(3).

Term by term, for z = W1 x + b1, a = act(z), y = W2 a + b2, out = sum_k p_k y_k:

z    `dot_error` of K = h products, u|z| for the bias.
a    slopes of the activation times the error of its inputs; the second-order
     rest; (8 + 2 alpha |gate'|) u |a| for the operations and an exp whose
     argument is rounded; 2u |gate' (up' + beta)| for a sigmoid that is taken as
     (1 + tanh) / 2; then the rounding to the intermediate dtype.
y    sigma_y**2 = sum_i w2**2 sigma_a**2 (independent lanes); eta_y = sum_i |w2|
     eta_a; `dot_error` of K = i products; u|y| for the bias.
out  sigma**2 = sum_k p**2 sigma_y**2; eta = sum_k |p| (eta_y + slot rounding)
     + (k + 2) u sum_k |p y|; then the rounding to the output dtype.

A lane that is clamped on both sides has one value in every row, and so one
rounding error: it is taken as known, and systematic, instead of random.
Flushing subnormals, and elements under scale byte 0x00, to zero is allowed (`_FLUSH`
per factor).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from mxmoe.reference.activation import split_halves
from mxmoe.reference.formats import decode
from mxmoe.reference.moe import moe_of_rank
from mxmoe.reference.types import Activation
from mxmoe.reference.types import Arithmetic
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Routing
from mxmoe.reference.types import Shard
from mxmoe.reference.types import Trace

U_FLOAT32 = 2.0**-24

# The chance that a correct candidate fails anywhere in a night of 3e9 elements is at
# most 1e-3: one half for the elements, one for `residual`.
NIGHT_ELEMENTS = 3e9
FALSE_ALARMS = 1e-3 / 2

# A uniform error is sub-Gaussian with its own variance, and so is a sum of
# independent ones: P(|sum| > c sigma) <= 2 exp(-c**2 / 2). Hence
# c = sqrt(2 ln(2 * 3e9 / 5e-4)) = 7.76.
CONFIDENCE = math.sqrt(2 * math.log(2 * NIGHT_ELEMENTS / FALSE_ALARMS))

# A matrix unit adds 16 products a step and truncates the running sum, which loses
# at most one unit in the last place, 2u|partial sum|. Measured on an H100 (K from
# 192 to 11520, zero-mean and one-signed data) the result stays within K/16 steps
# of 2u(|sum| + rms), by a factor of 1.1 to 5.
_STEP = 16

# The largest element under scale byte 0x00, 6 * 2**-127, for which some decoders have 0
# (see `e8m0`). Subnormals of float32 and bfloat16 are smaller.
_FLUSH = 6 * 2.0**-127

# max |f''| of f(x) = x * sigmoid(x), attained at 0; max |f'| is 1.0998.
_SWISH_CURVATURE = 0.5
_SWISH_SLOPE = 1.1


@dataclass(frozen=True)
class Error:
    """A random part (standard deviation) and a systematic part (largest)."""

    sigma: torch.Tensor
    eta: torch.Tensor

    def allowed(self) -> torch.Tensor:
        """The largest deviation that is not held against a candidate."""
        return CONFIDENCE * self.sigma + self.eta


@dataclass(frozen=True)
class Judged:
    """The truth of each stage and the deviation allowed from it."""

    truth: Trace
    allowed: Mapping[str, torch.Tensor]

    def of_tokens(self, at: slice) -> Judged:
        """With some of the tokens, none of which takes another one."""
        return Judged(
            Trace({name: stage[at] for name, stage in self.truth.stages.items()}),
            {name: allowed[at] for name, allowed in self.allowed.items()},
        )


@dataclass(frozen=True, kw_only=True)
class ExpertErrors:
    """One visited expert: its rows of each stage, and what each may be off by.

    local : its index on the rank. at : bool [t, k], the n slots that visit it.
    w2 : [h, i]. gate_up [n, 2i], activation [n, i], down [n, h] : the truth.
    activation_error : as the second GEMM inherits it. second_gemm : what that GEMM
    adds. down_error : both together.
    """

    local: int
    at: torch.Tensor
    w2: torch.Tensor
    gate_up: torch.Tensor
    activation: torch.Tensor
    down: torch.Tensor
    gate_up_error: Error
    activation_error: Error
    activation_allowed: torch.Tensor
    second_gemm: Error
    down_error: Error


def judge_rank(
    part: ExpertWeights,
    config: MoEConfig,
    hidden_states: torch.Tensor,
    routing: Routing,
    *,
    shard: Shard,
    arithmetic: Arithmetic,
    routing_error: torch.Tensor | None = None,
) -> Judged:
    """Truth and bounds for one rank's `part` (see `shard_weights`).

    routing_error : relative error [t, k] of the routing weights that a candidate
    which routes by itself may make; None when both sides were given the weights.
    """
    truth = moe_of_rank(part, config, hidden_states, routing, shard=shard)
    allowed = {
        stage: torch.zeros_like(truth[stage])
        for stage in ("gate_up", "activation", "down")
    }
    down_error = Error(torch.zeros_like(truth["down"]), torch.zeros_like(truth["down"]))
    for e in visited_experts(
        part, config, hidden_states, routing, truth, shard=shard, arithmetic=arithmetic
    ):
        allowed["gate_up"][e.at] = e.gate_up_error.allowed()
        allowed["activation"][e.at] = e.activation_allowed
        down_error.sigma[e.at] = e.down_error.sigma
        down_error.eta[e.at] = e.down_error.eta
    slot = half_ulp(truth["down"], arithmetic.slot)
    allowed["down"] = down_error.allowed() + slot
    allowed["combine"] = combine(
        truth, routing, down_error, slot, arithmetic, routing_error
    )
    return Judged(truth, allowed)


def visited_experts(
    part: ExpertWeights,
    config: MoEConfig,
    hidden_states: torch.Tensor,
    routing: Routing,
    truth: Trace,
    *,
    shard: Shard,
    arithmetic: Arithmetic,
) -> Iterator[ExpertErrors]:
    """The errors of each expert that a token visits, one decoded at a time."""
    for local, expert in enumerate(shard.expert_range(config)):
        at = routing.ids == expert
        if not at.any():
            continue
        w1 = decode(part.gate_up_blocks[local], part.gate_up_scales[local])
        w2 = decode(part.down_blocks[local], part.down_scales[local])
        x = hidden_states[at.any(dim=1)].double()
        z, a, y = (truth[stage][at] for stage in ("gate_up", "activation", "down"))
        z_error = gate_up_error(x, w1, z, arithmetic)
        a_exact = activation_error(z, a, z_error, config.activation)
        a_error, a_allowed = rounded_activation(z, a, a_exact, config, arithmetic)
        second = second_gemm_error(a, w2, y, arithmetic)
        yield ExpertErrors(
            local=local,
            at=at,
            w2=w2,
            gate_up=z,
            activation=a,
            down=y,
            gate_up_error=z_error,
            activation_error=a_error,
            activation_allowed=a_allowed,
            second_gemm=second,
            down_error=down_error(w2, a_error, second),
        )


def half_ulp(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The largest error of rounding each value to nearest in `dtype`."""
    _, above = torch.frexp(values)
    half = torch.ldexp(torch.ones_like(values), above - 1) * (
        torch.finfo(dtype).eps / 2
    )
    return torch.where(values == 0, 0, half)


def dot_error(
    total: torch.Tensor, square: torch.Tensor, terms: int, arithmetic: Arithmetic
) -> Error:
    """Error of a float32 sum of `terms` products with that `total`.

    square : sum of the squared products. Partial sums in an order unrelated to
    the data have mean square total**2/3 + square/6, each is rounded with variance
    (u p)**2 / 3; the square is taken twice for orders that are less random.
    """
    rms = square.sqrt()
    sigma = U_FLOAT32 * math.sqrt(terms / 3) * (total**2 / 3 + square / 3).sqrt()
    if not arithmetic.tensor_core:
        return Error(sigma, torch.zeros_like(sigma))
    return Error(sigma, terms / _STEP * 2 * U_FLOAT32 * (total.abs() + rms))


def gate_up_error(
    x: torch.Tensor, w1: torch.Tensor, z: torch.Tensor, arithmetic: Arithmetic
) -> Error:
    """Of z [t, 2i] = W1 x + b1, from exact inputs."""
    square = torch.einsum("th,ih->ti", x**2, w1**2)
    error = dot_error(z, square, x.shape[1], arithmetic)
    flush = _FLUSH * x.abs().sum(dim=1, keepdim=True)
    return Error(error.sigma, error.eta + U_FLOAT32 * z.abs() + flush)


def activation_error(
    z: torch.Tensor, a: torch.Tensor, error: Error, activation: Activation
) -> Error:
    """Before the rounding to the intermediate dtype."""
    gate, up = split_halves(z)
    wide_gate, wide_up = split_halves(error.allowed())
    limit, alpha = activation.limit, activation.alpha
    # Beyond a clamp an error of the input does not arrive.
    open_gate = (gate - wide_gate <= limit).double()
    open_up = (up.abs() - wide_up <= limit).double()
    gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
    sigmoid = torch.sigmoid(alpha * gate)
    swish, linear = gate * sigmoid, up + activation.beta
    slope_gate = sigmoid * (1 + alpha * gate * (1 - sigmoid)) * linear * open_gate
    slope_up = swish * open_up
    wide_gate, wide_up = wide_gate * open_gate, wide_up * open_up
    second_order = (
        _SWISH_CURVATURE / 2 * alpha * wide_gate**2 * (linear.abs() + wide_up)
        + _SWISH_SLOPE * wide_gate * wide_up
    )
    operations = (8 + 2 * alpha * gate.abs()) * U_FLOAT32 * a.abs()
    operations += 2 * U_FLOAT32 * (gate * linear).abs()
    (sigma_gate, sigma_up), (eta_gate, eta_up) = (
        split_halves(error.sigma),
        split_halves(error.eta),
    )
    sigma = torch.hypot(slope_gate * sigma_gate, slope_up * sigma_up)
    eta = slope_gate.abs() * eta_gate + slope_up.abs() * eta_up
    return Error(sigma, eta + second_order + operations + _FLUSH)


def rounded_activation(
    z: torch.Tensor,
    a: torch.Tensor,
    exact: Error,
    config: MoEConfig,
    arithmetic: Arithmetic,
) -> tuple[Error, torch.Tensor]:
    """(what the second GEMM inherits, what the stage itself may be off by)."""
    rounding = half_ulp(a, arithmetic.intermediate)
    gate, up = split_halves(z)
    limit = config.activation.limit
    constant = (gate > limit) & (up.abs() > limit)
    known = (a.to(arithmetic.intermediate).double() - a).abs()
    inherited = Error(
        torch.hypot(exact.sigma, torch.where(constant, 0, rounding / math.sqrt(3))),
        exact.eta + torch.where(constant, known, 0),
    )
    return inherited, exact.allowed() + rounding


def second_gemm_error(
    a: torch.Tensor, w2: torch.Tensor, y: torch.Tensor, arithmetic: Arithmetic
) -> Error:
    """Of y [t, h] = W2 a + b2, from exact lanes."""
    square = torch.einsum("ti,hi->th", a**2, w2**2)
    dot = dot_error(y, square, a.shape[1], arithmetic)
    flush = _FLUSH * (a.abs().sum(dim=1, keepdim=True) + 1)
    return Error(dot.sigma, dot.eta + U_FLOAT32 * y.abs() + flush)


def down_error(w2: torch.Tensor, activation: Error, second_gemm: Error) -> Error:
    """Of y, from lanes with an error."""
    random = torch.einsum("ti,hi->th", activation.sigma**2, w2**2)
    systematic = torch.einsum("ti,hi->th", activation.eta, w2.abs())
    return Error((second_gemm.sigma**2 + random).sqrt(), second_gemm.eta + systematic)


def weighted_sum_error(served: torch.Tensor) -> torch.Tensor:
    """Largest error [t, h] of adding up `served`, |p y| of each slot [t, k, h]."""
    operations = (served.shape[1] + 2) * U_FLOAT32 * served.sum(dim=1)
    return operations + _FLUSH * (served > 0).any(dim=1)


def combine(
    truth: Trace,
    routing: Routing,
    down: Error,
    slot: torch.Tensor,
    arithmetic: Arithmetic,
    routing_error: torch.Tensor | None,
) -> torch.Tensor:
    """Allowed of `combine` [t, h]; see `judge_rank` for `routing_error`."""
    # Slots without an expert here have `down` = 0 and no error.
    p = routing.weights.double().abs()[..., None]
    served = p * truth["down"].abs()
    eta = (p * (down.eta + slot)).sum(dim=1)
    eta += weighted_sum_error(served)
    if routing_error is not None:
        eta += (routing_error[..., None] * served).sum(dim=1)
    sigma = (p * down.sigma).square().sum(dim=1).sqrt()
    allowed = Error(sigma, eta).allowed()
    # The sum may already be at the far end of what is allowed when it is rounded.
    return allowed + half_ulp(truth["combine"].abs() + allowed, arithmetic.output)
