"""The routing weights that a candidate has really used, read from its output.

out[t] = sum_k w[t, k] down[t, k] has k unknowns and h equations a token: the weights
follow from the output and the rows. Read against those that were given they say which
slot or which expert is left out, counted twice, not weighted, or in another's place.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from mxmoe.evals.locate.cause import Cause
from mxmoe.evals.locate.explained import SLACK
from mxmoe.reference.types import Routing

_TOKENS = 256
# Orders of more slots are not tried one by one.
_SLOTS = 5
OTHER_WEIGHTS = "the slots are added with other routing weights"
# Below this a slot counts as left out.
_NOTHING = 2.0**-7


@dataclass(frozen=True, kw_only=True, eq=False)
class Sum:
    """Tokens of a weighted sum: out, allowed [t, h]; down [t, k, h], in float64."""

    out: torch.Tensor
    allowed: torch.Tensor
    down: torch.Tensor
    routing: Routing

    def first(self) -> Sum:
        """Some of the tokens."""
        some = slice(_TOKENS)
        ids, weights = self.routing.ids[some], self.routing.weights[some]
        return Sum(
            out=self.out[some],
            allowed=self.allowed[some],
            down=self.down[some],
            routing=Routing(ids, weights),
        )

    def fits(self, weights: torch.Tensor) -> bool:
        """Whether the sum with `weights` [t, k] is what was found."""
        sums = torch.einsum("tk,tkh->th", weights, self.down)
        return bool(((self.out - sums).abs() <= SLACK * self.allowed).all())


def weight_causes(whole: Sum) -> list[Cause]:
    """The simplest other weights that explain every token; () if none do.

    Also () where the right weights do: what is wrong is then too little to tell.
    """
    part = whole.first()
    if not part.out.isfinite().all() or part.fits(part.routing.weights.double()):
        return []
    given = part.routing.weights.double()
    # Each element counts as exactly as it is known.
    known = 1 / part.allowed.clamp(min=torch.finfo(torch.float32).tiny)
    used = torch.linalg.lstsq(
        (part.down * known[:, None]).transpose(1, 2),
        (part.out * known)[..., None],
        driver="gelsd",
    ).solution[..., 0]
    for weights, cause in _hypotheses(part, given, used):
        if part.fits(weights):
            return [cause]
    return [Cause(text=OTHER_WEIGHTS)] if part.fits(used) else []


def _hypotheses(
    part: Sum, given: torch.Tensor, used: torch.Tensor
) -> Iterator[tuple[torch.Tensor, Cause]]:
    k = given.shape[1]
    yield torch.ones_like(given), Cause(text="the routing weights are not used")
    rounded = given.bfloat16().double()
    yield rounded, Cause(text="the routing weights are rounded to bfloat16")
    for slot in range(k):
        here = torch.zeros(k, dtype=torch.bool)
        here[slot] = True
        yield (
            torch.where(here, 1.0, given),
            Cause(text=f"slot {slot} is added with weight 1", slot=slot),
        )
        factor = _factor(given[:, slot], used[:, slot])
        text = f"slot {slot} {_counts(factor)}"
        yield (
            torch.where(here, factor * given, given),
            Cause(text=text, slot=slot),
        )
    for expert in part.routing.ids.unique().tolist():
        at = part.routing.ids == expert
        factor = _factor(given[at], used[at])
        text = f"expert {expert} {_counts(factor)}"
        yield (
            torch.where(at, factor * given, given),
            Cause(text=text, expert=expert),
        )
    if k <= _SLOTS:
        for order in itertools.permutations(range(k)):
            text = f"the slots have each other's weights, in the order {order}"
            yield given[:, list(order)], Cause(text=text)


def _factor(given: torch.Tensor, used: torch.Tensor) -> float:
    size = float(given.square().sum())
    return float((given * used).sum()) / size if size else 0.0


def _counts(factor: float) -> str:
    if abs(factor) < _NOTHING:
        return "adds nothing"
    return f"counts {factor:.4g} times"
