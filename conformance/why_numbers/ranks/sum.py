"""Why a sum over ranks is wrong although each output is right: the mixture it equals.

With p_r what rank r adds and x the hidden states, every hypothesis is one sum
sum_r c_r p_r + c_x x. The right one is c_r = 1 (plus x after a layer step), and a fault
of the collective is another choice of coefficients: if the found sum lies within the
bound around it, the collective behaves as if that had happened.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import replace

import torch

from mxmoe.conformance.bounds.compare_numbers import compare_numbers


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What the hypotheses mix, on the CPU in float64.

    partials, allowed : [r, t, h] what each rank adds and what that may be off by.
    residual : [t, h] the hidden states. rounding : [t, h] what reducing, and adding the
    residual, may be off by. own : the global rank whose layer step is explained, or
    None for the sum itself, without a residual.
    """

    labels: tuple[str, ...]
    partials: torch.Tensor
    allowed: torch.Tensor
    residual: torch.Tensor
    rounding: torch.Tensor
    own: int | None = None


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """The coefficients of one hypothesis."""

    name: str
    ranks: tuple[float, ...]
    residual: float

    def told(self, terms: Terms) -> tuple[torch.Tensor, torch.Tensor]:
        """(the sum [t, h] under this hypothesis, what it may be off by)."""
        c = torch.tensor(self.ranks, dtype=torch.float64)
        truth = torch.einsum("r,rth->th", c, terms.partials)
        allowed = torch.einsum("r,rth->th", c.abs(), terms.allowed)
        # Reducing larger sums rounds more, in proportion.
        scale = max(1.0, float(c.abs().max()), abs(self.residual))
        return truth + self.residual * terms.residual, allowed + scale * terms.rounding


def explain_sum(found: torch.Tensor, terms: Terms) -> list[str]:
    """The hypotheses under which `found` [t, h] is within the bound everywhere."""
    return [
        mixture.name
        for mixture in mixtures(terms)
        if compare_numbers(found, *mixture.told(terms)).within
    ]


def mixtures(terms: Terms) -> list[Mixture]:
    """Hypotheses that differ; with two ranks, several names have one meaning."""
    found = dict[tuple[object, ...], Mixture]()
    for mixture in _all_mixtures(terms):
        meaning = mixture.ranks, mixture.residual
        other = found.get(meaning)
        name = mixture.name if other is None else f"{other.name}, or {mixture.name}"
        found[meaning] = replace(mixture, name=name)
    return list(found.values())


def _all_mixtures(terms: Terms) -> Iterator[Mixture]:
    n, x = len(terms.labels), 0.0 if terms.own is None else 1.0
    once = (1.0,) * n
    if terms.own is not None:
        yield from _step(terms.own, once)
    else:
        for r, label in enumerate(terms.labels):
            alone = tuple(float(s == r) for s in range(n))
            name = f"not reduced: the output of rank {label} alone"
            yield Mixture(name=name, ranks=alone, residual=x)
        name = f"reduced twice ({n} times the sum)"
        yield Mixture(name=name, ranks=(float(n),) * n, residual=x)
    for r, label in enumerate(terms.labels):
        if bool(terms.partials[r].any()):
            for name, count in (("missing", 0.0), ("added twice", 2.0)):
                ranks = tuple(count if s == r else 1.0 for s in range(n))
                yield Mixture(name=f"rank {label} {name}", ranks=ranks, residual=x)
    for r, label in enumerate(terms.labels):
        for s, other in enumerate(terms.labels):
            if r != s:
                ranks = tuple(1.0 - (q == r) + (q == s) for q in range(n))
                name = f"rank {other} added in the place of rank {label}"
                yield Mixture(name=name, ranks=ranks, residual=x)
    yield Mixture(name="mean over ranks, not the sum", ranks=(1 / n,) * n, residual=x)
    yield Mixture(name="nothing is written", ranks=(0.0,) * n, residual=x)


def _step(own: int, once: tuple[float, ...]) -> Iterator[Mixture]:
    """What a layer step makes of the reduction and the residual."""
    n = len(once)
    alone = tuple(float(s == own) for s in range(n))
    for name, ranks, residual in (
        ("no all_reduce: the rank's own part", alone, 1.0),
        (f"all_reduce done twice ({n} times the sum)", (float(n),) * n, 1.0),
        (f"all_reduce after the residual: hidden states added {n} times", once, n),
        (
            "residual added on each rank before the all_reduce, and after it",
            once,
            n + 1,
        ),
        ("residual missing", once, 0.0),
    ):
        yield Mixture(name=name, ranks=ranks, residual=residual)
