"""Whether a guess explains what is wrong, and not merely fits what is nearly right."""

from __future__ import annotations

import torch

# A guess takes up part of what is allowed in each element.
SLACK = 2.0
# Of the squared errors that were out of bound. A right guess leaves honest rounding,
# which is well within the bound; a wrong one that fits leaves most of it.
_LEFT = 0.25


def explained(before: torch.Tensor, after: torch.Tensor, allowed: torch.Tensor) -> bool:
    """before, after : errors without and with the guess, of the shape of `allowed`."""
    if not bool((after.abs() <= SLACK * allowed).all()):
        return False
    bad = before.abs() > allowed
    wrong, left = before[bad].square().sum(), after[bad].square().sum()
    return bool(bad.any()) and bool(left <= _LEFT * wrong)
