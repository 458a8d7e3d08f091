"""Found values against truth and allowed deviation; the shape of the damage."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from mxmoe.reference.types import Routing


@dataclass(frozen=True, kw_only=True)
class NumberDifference:
    """How a tensor compares with its bound. `worst` is the largest error / allowed."""

    worst: float
    bad: torch.Tensor
    at: tuple[int, ...]
    expected: float
    found: float
    allowed: float
    nonfinite: int

    @property
    def within(self) -> bool:
        """Whether every element is within its bound."""
        return not bool(self.bad.any())


def compare_numbers(
    found: torch.Tensor, truth: torch.Tensor, allowed: torch.Tensor
) -> NumberDifference:
    """Compare elementwise, in float64 on the CPU; NaN and Inf are never within."""
    got = found.detach().to("cpu", torch.float64).reshape(truth.shape)
    error = (got - truth).abs()
    ratio = torch.where(error == 0, 0.0, error / allowed)
    ratio = torch.where(got.isfinite(), ratio, torch.inf)
    bad = ~(ratio <= 1)
    if ratio.numel() == 0:
        return NumberDifference(
            worst=0.0, bad=bad, at=(), expected=0, found=0, allowed=0, nonfinite=0
        )
    flat = int(ratio.argmax())
    # torch.unravel_index imports sympy, which takes a second.
    at = tuple(int(n) for n in np.unravel_index(flat, ratio.shape))
    return NumberDifference(
        worst=float(ratio.flatten()[flat]),
        bad=bad,
        at=at,
        expected=float(truth[at]),
        found=float(got[at]),
        allowed=float(allowed[at]),
        nonfinite=int((~got.isfinite()).sum()),
    )


def damage(bad: torch.Tensor, routing: Routing | None = None) -> str:
    """One phrase for where the bad elements of a [t, width] mask lie."""
    rows, columns = bad.any(dim=1), bad.any(dim=0)
    t, width = bad.shape
    if int(bad.sum()) == 1:
        return "a single element"
    first = int(columns.int().argmax())
    # A right element may be small enough for a missing one to be within its bound; and
    # a few right ones at the front are chance, no tail behind them.
    tail = columns[first:].double().mean()
    if first >= max(width // (4 if tail == 1 else 2), 1) and tail > 0.75:
        whose = "every token" if rows.all() else f"{int(rows.sum())} of {t} tokens"
        return f"trailing columns {first}..{width - 1} of {whose}: look at the N tail"
    if t > 1 and int(rows.sum()) == 1:
        return f"token {int(rows.int().argmax())} only"
    if routing is not None and not rows.all():
        for e in routing.ids[routing.ids >= 0].unique().tolist():
            if torch.equal((routing.ids == e).any(dim=1), rows):
                return f"exactly the tokens that visit expert {e}"
    if rows.all() and columns.all():
        return "every token and column"
    if columns.all():
        last = int(rows.nonzero()[-1])
        if rows[int(rows.int().argmax()) : last + 1].all() and last == t - 1:
            return f"tokens {int(rows.int().argmax())}..{t - 1}, every column"
        return f"{int(rows.sum())} of {t} tokens, every column"
    if rows.all():
        return f"every token in {int(columns.sum())} of {width} columns"
    return f"scattered over {int(rows.sum())} tokens and {int(columns.sum())} columns"
