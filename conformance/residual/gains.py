"""Gains of the residual along what a fault would scale: see `structure`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from mxmoe.conformance.residual.roundings import ONCE
from mxmoe.conformance.residual.roundings import extra_roundings
from mxmoe.conformance.residual.structure import CHANCE
from mxmoe.conformance.residual.structure import Expected
from mxmoe.conformance.residual.structure import Situation
from mxmoe.reference.activation import split_halves
from mxmoe.reference.types import Activation

CONFIDENCE = math.sqrt(2 * math.log(2 / CHANCE))
"""c = 7.54: a gain is significant beyond that many standard deviations."""

# Largest gain error that an H100's tensor cores were measured at: 1.5e-5, on one-signed
# data at K = 11520. 16 times that is not held against anybody, and is a quarter of the
# smallest fault that shall be seen, a global gain of 0.1 %.
EFFECT = 2.0**-12


CONSTANTS = ("alpha", "beta", "the limit", "the exp's argument, squared")
"""What the activation is made of, and what its exp may drift with."""


@dataclass(frozen=True, kw_only=True)
class Gain:
    """How much of a direction is in the residual: 0.002 is 0.2 % too much of it.

    rounding : the direction is that of a rounding, which is made (1) or not (0).
    """

    along: str
    value: float
    allowed: float
    sigma: float
    rounding: bool = False

    @property
    def significant(self) -> bool:
        """Whether an honest candidate has no such gain."""
        return abs(self.value) > self.allowed

    @property
    def deviations(self) -> float:
        """The value in its standard deviations."""
        return abs(self.value) / self.sigma if self.sigma else math.inf


@dataclass(frozen=True, eq=False)
class GainFits:
    """How gains are read off a residual: computed once for a case.

    directions : what each would add to the output at a gain of 1, [d, t, h]. fits : V,
    whose sum with the residual is the gain. sigma, allowed : [d]. The last `roundings`
    directions are `extra_roundings`.
    """

    names: list[str]
    directions: torch.Tensor
    fits: torch.Tensor
    sigma: torch.Tensor
    allowed: torch.Tensor
    roundings: int = 0

    def of(self, residual: torch.Tensor) -> list[Gain]:
        """The gain along every direction, significant or not."""
        values = (self.fits * residual).sum(dim=(1, 2))
        numbers = (x.tolist() for x in (values, self.allowed, self.sigma))
        first = len(self.names) - self.roundings
        return [
            Gain(
                along=name,
                value=value,
                allowed=allowed,
                sigma=sigma,
                rounding=place >= first,
            )
            for place, (name, value, allowed, sigma) in enumerate(
                zip(self.names, *numbers, strict=True)
            )
        ]

    def without(self, gain: Gain, residual: torch.Tensor) -> list[Gain]:
        """What is significant once `gain` is taken out, most significant first."""
        own = gain.value * self.directions[self.names.index(gain.along)]
        left = [g for g in self.of(residual - own) if g.significant]
        return sorted(left, key=lambda g: -g.deviations)


def fit_gains(situation: Situation, expected: Expected) -> GainFits:
    """Directions that the case has, and what an honest residual has along them."""
    factors = fits_along(situation, expected, *_directions(situation))
    extra = extra_roundings(situation)
    roundings = fits_along(situation, expected, *extra, effect=ONCE)
    return GainFits(
        factors.names + roundings.names,
        torch.cat((factors.directions, roundings.directions)),
        torch.cat((factors.fits, roundings.fits)),
        torch.cat((factors.sigma, roundings.sigma)),
        torch.cat((factors.allowed, roundings.allowed)),
        roundings=len(roundings.names),
    )


def fits_along(
    situation: Situation,
    expected: Expected,
    names: list[str],
    directions: torch.Tensor,
    *,
    effect: float = EFFECT,
) -> GainFits:
    """How gains along `directions` [d, t, h] are read off; those of 0 are left out.

    effect : the smallest gain that is held against a candidate.
    """
    weights = 1 / (expected.variance + expected.eta**2)
    weights = torch.where(expected.variance > 0, weights, 0)
    fits = weights * directions
    size = (fits * directions).sum(dim=(1, 2))
    present = size > 0
    names = [name for name, there in zip(names, present, strict=True) if there]
    fits = fits[present] / size[present, None, None]
    variance = (fits**2 * expected.own.sigma**2).sum(dim=(1, 2))
    eta = (fits.abs() * expected.own.eta).sum(dim=(1, 2))
    for e in situation.experts():
        tokens, p = situation.weights_of(e)
        carried = torch.einsum("dnh,hi->dni", fits[:, tokens] * p, e.w2)
        variance += (carried * e.activation_error.sigma).square().sum(dim=(1, 2))
        eta += (carried.abs() * e.activation_error.eta).sum(dim=(1, 2))
    sigma = variance.sqrt()
    allowed = (CONFIDENCE * sigma + eta).clamp(min=effect)
    return GainFits(names, directions[present], fits, sigma, allowed)


def _directions(situation: Situation) -> tuple[list[str], torch.Tensor]:
    """Names, and what each would add to the output at a gain of 1, [d, t, h]."""
    s = situation
    found = {"the output": s.truth["combine"]}
    totals = ("the input", "the gate_up bias", "the down bias", *CONSTANTS)
    zeros = torch.zeros_like(s.truth["combine"])
    found |= {name: zeros.clone() for name in totals}
    first = s.shard.expert_range(s.config).start
    for e in s.experts():
        tokens, p = s.weights_of(e)
        b1 = torch.zeros_like(e.gate_up)
        if s.part.gate_up_bias is not None and s.part.down_bias is not None:
            b1 += s.part.gate_up_bias[e.local].double()
            b2 = s.part.down_bias[e.local].double() / s.shard.tp_size
            found["the down bias"][tokens] += p * b2
        by_name = {
            "the input": _tangent(e.gate_up, e.gate_up - b1, s.config.activation),
            "the gate_up bias": _tangent(e.gate_up, b1, s.config.activation),
            **of_constants(e.gate_up, s.config.activation),
        }
        for name, lanes in by_name.items():
            found[name][tokens] += p * torch.einsum("ni,hi->nh", lanes, e.w2)
        mine = zeros.clone()
        mine[tokens] = p * e.down
        found[f"expert {first + e.local}'s contribution"] = mine
    return list(found), torch.stack(list(found.values()))


def of_constants(z: torch.Tensor, activation: Activation) -> dict[str, torch.Tensor]:
    """d activate / dg at g = 0, each constant times 1 + g: [n, 2i] -> [n, i].

    The last is an exp that is wrong by the factor 1 + g (alpha gate')**2: power series
    and products err so, to lowest order.
    """
    whole_gate, whole_up = split_halves(z)
    limit, alpha, beta = activation.limit, activation.alpha, activation.beta
    gate, up = whole_gate.clamp(max=limit), whole_up.clamp(-limit, limit)
    sigmoid = torch.sigmoid(alpha * gate)
    bent = gate * sigmoid * (1 - sigmoid) * (up + beta)
    slope = sigmoid * (1 + alpha * gate * (1 - sigmoid)) * (up + beta)
    at_limit = torch.where(whole_gate > limit, slope, 0)
    at_limit += torch.where(whole_up.abs() > limit, up.sign() * gate * sigmoid, 0)
    found = (
        alpha * gate * bent,
        beta * gate * sigmoid,
        limit * at_limit if math.isfinite(limit) else torch.zeros_like(gate),
        (alpha * gate) ** 2 * bent,
    )
    return dict(zip(CONSTANTS, found, strict=True))


def _tangent(
    z: torch.Tensor, change: torch.Tensor, activation: Activation
) -> torch.Tensor:
    """d activate(z + g * change) / dg at g = 0: [n, 2i] -> [n, i]."""
    (gate, up), (by_gate, by_up) = split_halves(z), split_halves(change)
    limit, alpha = activation.limit, activation.alpha
    by_gate = torch.where(gate > limit, 0, by_gate)
    by_up = torch.where(up.abs() > limit, 0, by_up)
    gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
    sigmoid = torch.sigmoid(alpha * gate)
    slope = sigmoid * (1 + alpha * gate * (1 - sigmoid))
    return slope * (up + activation.beta) * by_gate + gate * sigmoid * by_up
