"""Why the ranks' sum is wrong: the mixture of right parts that it equals.

With p_r the true partial sum of rank r, B the routed down bias and x the hidden
states, every hypothesis is one sum  sum_r c_r p_r + c_B B + c_x x . The right one is
c_r = 1 (plus x after a layer step), and a fault of sharding or of the collective is
another choice of coefficients: if the found output lies within the bound around it,
the ranks behave as if that had happened.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import torch

from mxmoe.conformance.compare_numbers import compare_numbers


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What the hypotheses mix, on the CPU in float64.

    partials, allowed : [r, t, h] true partial sums and what each may be off by.
    bias : [t, h] sum_k p_k b2[e_k]. residual : [t, h] the hidden states. own : the
    global rank whose output is explained, or None for the sum of all outputs.
    rounding : [t, h] what reducing and adding the residual may be off by; for the
    sum of all outputs, what ranks may be off by that add the residual themselves.
    """

    labels: tuple[str, ...]
    partials: torch.Tensor
    allowed: torch.Tensor
    bias: torch.Tensor
    residual: torch.Tensor
    rounding: torch.Tensor
    tp_size: int
    ep_size: int
    own: int | None = None

    @property
    def step(self) -> float:
        """The coefficient of the residual where nothing is wrong."""
        return 0.0 if self.own is None else 1.0


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """The coefficients of one hypothesis."""

    name: str
    ranks: tuple[float, ...]
    bias: float = 0.0
    residual: float


def explain_ranks(found: torch.Tensor, terms: Terms) -> list[str]:
    """The hypotheses under which `found` [t, h] is within the bound everywhere."""
    names = []
    seen: set[tuple[object, ...]] = set()
    for mixture in mixtures(terms):
        coefficients = (mixture.ranks, mixture.bias, mixture.residual)
        if coefficients in seen:
            continue  # with two ranks, several names have one meaning
        seen.add(coefficients)
        c = torch.tensor(mixture.ranks, dtype=torch.float64)
        truth = torch.einsum("r,rth->th", c, terms.partials)
        truth = truth + mixture.bias * terms.bias + mixture.residual * terms.residual
        allowed = torch.einsum("r,rth->th", c.abs(), terms.allowed)
        if terms.own is not None or mixture.residual:
            # Reducing larger sums rounds more, in proportion.
            scale = max(1.0, float(c.abs().max()), abs(mixture.residual))
            allowed = allowed + scale * terms.rounding
        if compare_numbers(found, truth, allowed).within:
            names.append(mixture.name)
    return names


def mixtures(terms: Terms) -> Iterator[Mixture]:
    """Every hypothesis that fits this group, those that say most first."""
    once = (1.0,) * len(terms.labels)
    if terms.own is not None:
        yield from _collective(terms, once)
    if bool(terms.bias.any()):
        yield from _bias(terms, once)
    yield from _one_rank(terms)
    yield from _every_rank(terms, once)


def _one_rank(terms: Terms) -> Iterator[Mixture]:
    """A single rank adds something else than its part."""
    n, x = len(terms.labels), terms.step
    for r, label in enumerate(terms.labels):
        if bool(terms.partials[r].any()):
            for name, count in (("missing", 0.0), ("added twice", 2.0)):
                ranks = tuple(count if s == r else 1.0 for s in range(n))
                yield Mixture(name=f"rank {label} {name}", ranks=ranks, residual=x)
    for r, label in enumerate(terms.labels):
        for s, other in enumerate(terms.labels):
            if r != s:
                swapped = tuple(1.0 - (q == r) + (q == s) for q in range(n))
                name = f"rank {label} holds the part of {other}"
                yield Mixture(name=name, ranks=swapped, residual=x)


def _every_rank(terms: Terms, once: tuple[float, ...]) -> Iterator[Mixture]:
    """All ranks make the same mistake."""
    n, x, ep = len(once), terms.step, terms.ep_size
    if ep > 1:
        name = f"every expert-parallel rank computes all experts ({ep} times the sum)"
        yield Mixture(name=name, ranks=(float(ep),) * n, residual=x)
    name = f"every rank computes the whole layer ({n} times the sum)"
    yield Mixture(name=name, ranks=(float(n),) * n, residual=x)
    for r, label in enumerate(terms.labels):
        only = tuple(float(n) * (s == r) for s in range(n))
        name = f"every rank holds the part of {label}"
        yield Mixture(name=name, ranks=only, residual=x)
    yield Mixture(name="mean over ranks, not the sum", ranks=(1 / n,) * n, residual=x)
    if terms.own is None:
        yield Mixture(name="each rank adds the hidden states", ranks=once, residual=n)


def _bias(terms: Terms, once: tuple[float, ...]) -> Iterator[Mixture]:
    """Other multiples of the down bias; one may have several reasons."""
    tp, ep = terms.tp_size, terms.ep_size
    readings: list[tuple[Fraction, str]] = []
    if tp > 1:
        readings.append((Fraction(tp), f"added {tp} times: not divided by tp"))
        words = "added once in tp: divided by tp twice, or on one rank only"
        readings.append((Fraction(1, tp), words))
    if ep > 1:
        words = "divided by ep, whose ranks share no expert"
        readings.append((Fraction(1, ep), words))
    if tp > 1 and ep > 1:
        readings.append((Fraction(tp, ep), "divided by ep, not by tp"))
    readings.append((Fraction(0), "on no rank"))
    for factor in dict.fromkeys(factor for factor, _ in readings):
        words = ", or ".join(words for other, words in readings if other == factor)
        if factor != 1:
            yield Mixture(
                name=f"down bias {words}",
                ranks=once,
                bias=float(factor) - 1,
                residual=terms.step,
            )


def _collective(terms: Terms, once: tuple[float, ...]) -> Iterator[Mixture]:
    """What comes after the partial sums: the reduction and the residual."""
    n, own = len(once), terms.own
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
