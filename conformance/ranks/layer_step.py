"""How a layer ends on each rank: reduce the partial sums, then add the residual."""

from __future__ import annotations

from collections.abc import Callable

import torch

AllReduce = Callable[[torch.Tensor], torch.Tensor]
LayerStep = Callable[[torch.Tensor, torch.Tensor, AllReduce], torch.Tensor]


def layer_step(
    residual: torch.Tensor, partial: torch.Tensor, all_reduce: AllReduce
) -> torch.Tensor:
    """residual [t, h], the same on every rank, plus the ranks' sum of `partial`.

    In this order: a residual that is added before the reduction is added by each
    rank.
    """
    return residual + all_reduce(partial)
