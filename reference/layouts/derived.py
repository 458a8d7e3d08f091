"""A prepared value that is computed from the rank's bytes instead of moved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from mxmoe.reference.sharding import shard_weights
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Shard


@dataclass(frozen=True, kw_only=True)
class Derived:
    """What a kernel's host code asks of the weights: a small tensor on the CPU.

    value : from the rank's own part (see `shard_weights`), which may be empty. It has
    no expert axis, and nothing of the checkpoint can be restored from it.
    """

    value: Callable[[ExpertWeights], torch.Tensor]

    def of_rank(
        self, weights: ExpertWeights, config: MoEConfig, shard: Shard
    ) -> torch.Tensor:
        """The prepared tensor, from the whole layer."""
        return self.value(shard_weights(weights, config, shard)).cpu()
