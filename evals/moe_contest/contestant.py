"""What takes part: one small protocol for our candidates and for other people's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from mxmoe.reference.types import Arithmetic
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig

Layer = Callable[[torch.Tensor], torch.Tensor]
"""hidden states [t, h] -> [t, h]: router to output, without a wait for the GPU."""


class Unavailable(Exception):
    """The contestant cannot take part here; the text is one sentence why."""


class Contestant(Protocol):
    """One implementation of the layer.

    arithmetic : the class whose bound its output is judged by; hidden states come in
    the class's `output` dtype. routing_dtype : what it rounds its routing weights to.
    router, version : how it takes the logits, and whose code it is, for the record.
    """

    @property
    def name(self) -> str:
        """A column of the table."""

    @property
    def arithmetic(self) -> Arithmetic:
        """See above."""

    @property
    def routing_dtype(self) -> torch.dtype:
        """See above."""

    @property
    def router(self) -> str:
        """See above."""

    @property
    def version(self) -> str | None:
        """See above; None where nothing tells it."""

    def build(
        self, weights: ExpertWeights, config: MoEConfig, device: torch.device
    ) -> Layer:
        """Prepare `weights`, which are on `device`; raises `Unavailable`."""
