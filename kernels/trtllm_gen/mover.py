"""The two moves that preparation consists of, so that they can be exchanged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from mxmoe.kernels.trtllm_gen.rows import place_rows
from mxmoe.kernels.trtllm_gen.scales import place_scales


class Place(Protocol):
    """Writes all of `destination` [e, R, C]: `source` [e, r, c] reordered, then zeros.

    See `rows.place_rows` for what may be given.
    """

    def __call__(
        self,
        destination: torch.Tensor,
        source: torch.Tensor,
        *,
        block: int,
        gated: bool,
    ) -> None:
        """Move one tensor."""


@dataclass(frozen=True)
class Mover:
    """`rows` for weights and biases, `scales` for block scales."""

    rows: Place
    scales: Place


VIEWS = Mover(place_rows, place_scales)
"""Strided copies of torch between views; anywhere."""
