"""What is trained and for how long: all that decides a run's result."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run: with the model's shape, its result follows from these numbers.

    rows : of 256 tokens in a batch. learning_rate : at the top, after `warmup` steps;
    from there half a cosine down to `last_rate` of it at step `steps`. balance :
    weight of the loss that keeps all experts in use. started_from : SHA-256 of the
    weights of the trained model that this run began with, if one.
    """

    seed: int = 0
    steps: int = 20000
    rows: int = 128
    learning_rate: float = 2e-3
    last_rate: float = 0.01
    warmup: int = 300
    weight_decay: float = 0.05
    beta1: float = 0.9
    beta2: float = 0.98
    clip: float = 1.0
    balance: float = 0.01
    started_from: str | None = None

    def rate(self, step: int) -> float:
        """The learning rate of step `step`, counted from 0."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        low = self.last_rate
        wave = 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
        return self.learning_rate * (low + (1 - low) * wave)
