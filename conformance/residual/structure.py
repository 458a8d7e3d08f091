"""Errors within the bound must also be unsystematic: nothing repeats in them.

An honest candidate of a declared class (see `bounds`) errs by

    r = B d + o + s        d, o independent, |s| <= eta

d are the roundings of the intermediate, one for each lane of a slot, which B = p W2
carries to all columns of a token; o is each output element's own (its rounding, and
those of the second GEMM); s is what does not average out (truncation, exp). Every
rounding is sub-Gaussian with its own variance. Two things follow.

**Gains.** For any direction D [t, h] (an expert's contribution, a bias, ...) the
weighted fit g = sum V r with V = w D / sum w D**2, w = 1 / (variance + eta**2), is a
sum of independent roundings, known exactly by carrying V back through W2:

    sigma**2 = sum_tki (p W2^T V)**2 sigma_d**2 + sum_th V**2 sigma_o**2
    eta      = sum_tki |p W2^T V| eta_d         + sum_th |V| eta_o

and P(|g| > c sigma + eta) <= 2 exp(-c**2 / 2). So g is held against a candidate if
it is significant beyond what truncation can do here, *and* as large as `EFFECT`.

**Variance.** e = r / sqrt(variance) has mean square 1 at most. Tokens are independent;
the columns of one token share its d and have a covariance M, known from B, so that
M**(-1/2) e is white. n white sub-Gaussian errors have (Hsu, Kakade, Zhang 2012)

    P(sum of squares > n + 2 sqrt(n x) + 2 x) <= exp(-x)

and s adds at most sqrt(sum eta**2 / sigma_o**2) to the root of the sum, because M is
larger than the share of o. Single columns need no M.

A lane whose values repeat from token to token, or hardly vary, has one rounding error
again and again: all of it is counted in eta_d. So has an output column, and a column of
a slot that is rounded: in eta_o. (A rank without lanes adds the bias alone: with one
slot a token all its rows are equal.)

Where an output is routing weights times biases and nothing else, its roundings are not
random either: of p b, with b of 8 bits and one p for all columns of a token, they can
all lie near half a unit, or all have the sign of b (p = 0.999 rounds b p to b). They
are counted in eta_o too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import replace

import torch

from mxmoe.conformance.bounds.propagated import FALSE_ALARMS
from mxmoe.conformance.bounds.propagated import NIGHT_ELEMENTS
from mxmoe.conformance.bounds.propagated import Error
from mxmoe.conformance.bounds.propagated import ExpertErrors
from mxmoe.conformance.bounds.propagated import half_ulp
from mxmoe.conformance.bounds.propagated import visited_experts
from mxmoe.conformance.bounds.propagated import weighted_sum_error
from mxmoe.reference.types import Arithmetic
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Routing
from mxmoe.reference.types import Shard
from mxmoe.reference.types import Trace

SMALLEST_GROUP = 16
"""Groups of fewer elements say nothing that the elementwise bound does not say."""

# Rows and columns each partition the elements into groups of 16 or more; the gains,
# experts and tails of a case are fewer than its elements / 16 from about 17 tokens of
# 32 columns on. So a night of 3e9 elements has fewer than 3e9 * 3 / 16 tests.
_TESTS = NIGHT_ELEMENTS * 3 / SMALLEST_GROUP
CHANCE = FALSE_ALARMS / _TESTS
"""Of each single test on a correct candidate: 9e-13."""

# Roundings of values that spread over fewer units in the last place repeat as well.
_FLAT = 4
# In units of a rounding: the truth of equal tokens differs by the order of its sums.
_SAME = 2.0**-16


@dataclass(frozen=True, kw_only=True)
class Situation:
    """One forward pass of one rank, and what the candidate's class says about it."""

    part: ExpertWeights
    config: MoEConfig
    hidden_states: torch.Tensor
    routing: Routing
    shard: Shard
    arithmetic: Arithmetic
    truth: Trace
    allowed: torch.Tensor

    def experts(self) -> Iterator[ExpertErrors]:
        """See `propagated.visited_experts`; roundings that repeat are systematic."""
        for e in visited_experts(
            self.part,
            self.config,
            self.hidden_states,
            self.routing,
            self.truth,
            shard=self.shard,
            arithmetic=self.arithmetic,
        ):
            rounding = half_ulp(e.activation, self.arithmetic.intermediate)
            again = _repeated(e.activation, rounding) * rounding
            # Where `bounds` knows the rounding, it is systematic already.
            again = torch.where(e.activation_error.sigma < rounding / 2, 0, again)
            carried = torch.einsum("ni,hi->nh", again, e.w2.abs())
            lanes, down = e.activation_error, e.down_error
            yield replace(
                e,
                activation_error=Error(lanes.sigma, lanes.eta + again),
                down_error=Error(down.sigma, down.eta + carried),
            )

    def of_token(self, token: int) -> Situation:
        """The same with one token alone."""
        one = slice(token, token + 1)
        return replace(
            self,
            hidden_states=self.hidden_states[one],
            routing=Routing(self.routing.ids[one], self.routing.weights[one]),
            truth=Trace({name: s[one] for name, s in self.truth.stages.items()}),
            allowed=self.allowed[one],
        )

    def down_bias(self, expert: ExpertErrors) -> torch.Tensor | float:
        """[h], this rank's share of the down bias of `expert`."""
        if self.part.down_bias is None:
            return 0.0
        return self.part.down_bias[expert.local].double() / self.shard.tp_size

    def weights_of(self, expert: ExpertErrors) -> tuple[torch.Tensor, torch.Tensor]:
        """(tokens [n], routing weights [n, 1]) of the slots that visit `expert`."""
        tokens = expert.at.nonzero()[:, 0]
        return tokens, self.routing.weights[expert.at].double()[:, None]


def _repeated(a: torch.Tensor, rounding: torch.Tensor) -> torch.Tensor:
    """bool [n, i]: where other tokens have the same rounding in the same lane."""
    if len(a) < 2:
        return torch.zeros_like(a, dtype=torch.bool)
    ordered, order = a.sort(dim=0)
    same = torch.zeros_like(a, dtype=torch.bool)
    near = _SAME * rounding.gather(0, order)
    same[1:] = ordered[1:] - ordered[:-1] <= near[1:]
    same[:-1] |= same[1:].clone()
    equal = torch.zeros_like(same).scatter(0, order, same)
    return equal | (ordered[-1] - ordered[0] < 2 * _FLAT * rounding.amax(dim=0))


@dataclass(frozen=True)
class Expected:
    """Size of an honest error: of each element, and of its own part o + s.

    variance, eta : [t, h], everything. own : without the roundings d.
    """

    variance: torch.Tensor
    eta: torch.Tensor
    own: Error


def expected_errors(situation: Situation) -> Expected:
    """What `bounds` derives, with each rounding as what it is: random."""
    s = situation
    combine = s.truth["combine"]
    rounding = half_ulp(combine.abs() + s.allowed, s.arithmetic.output)
    own_variance = rounding**2 / 3
    own_eta, inherited, eta = (torch.zeros_like(combine) for _ in range(3))
    products = torch.zeros_like(combine)
    for e in s.experts():
        tokens, p = s.weights_of(e)
        slot = half_ulp(e.down, s.arithmetic.slot)
        own_variance[tokens] += p**2 * (e.second_gemm.sigma**2 + slot**2 / 3)
        slot_again = p.abs() * _repeated(e.down, slot) * slot
        own_eta[tokens] += p.abs() * e.second_gemm.eta + slot_again
        eta[tokens] += slot_again
        inherited[tokens] += p**2 * (e.down_error.sigma**2 - e.second_gemm.sigma**2)
        eta[tokens] += p.abs() * e.down_error.eta
        products[tokens] += (p * (e.down - s.down_bias(e))).abs()
    again = (_repeated(combine, rounding) | (products < rounding)) * rounding
    served = s.routing.weights.double().abs()[..., None] * s.truth["down"].abs()
    adding = weighted_sum_error(served)
    own = Error(own_variance.sqrt(), own_eta + again + adding)
    return Expected(own_variance + inherited, eta + again + adding, own)
