"""A candidate of the suite as a contestant: prepare once, then `forward_fused`."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mxmoe.conformance.subject import Subject
from mxmoe.conformance.verdict import NotJudged
from mxmoe.evals.moe_contest.contestant import Layer
from mxmoe.evals.moe_contest.contestant import Unavailable
from mxmoe.reference.types import WHOLE
from mxmoe.reference.types import Arithmetic
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig


@dataclass(frozen=True)
class SuiteCandidate:
    """The loaded candidate `subject`, judged by the class that it declares."""

    subject: Subject

    router = "its own, inside forward_fused"
    version = None

    @property
    def name(self) -> str:
        """The candidate's own."""
        return self.subject.name

    @property
    def arithmetic(self) -> Arithmetic:
        """As declared."""
        return self.subject.arithmetic

    @property
    def routing_dtype(self) -> torch.dtype:
        """As declared."""
        return self.subject.capabilities.routing_dtype()

    def build(
        self, weights: ExpertWeights, config: MoEConfig, device: torch.device
    ) -> Layer:
        """See `Contestant`; a crash of the candidate's `prepare` is a `Failure`."""
        subject = self.subject
        shard = subject.capabilities.align(WHOLE)
        try:
            reason = subject.unavailable()
            subject.need("forward_fused")
            subject.require(config, shard)
        except NotJudged as refusal:
            reason = refusal.reason
        if reason is not None:
            raise Unavailable(reason)
        prepared = subject.prepare(weights, config, shard)
        router_weight, router_bias = weights.router_weight, weights.router_bias

        def layer(hidden_states: torch.Tensor) -> torch.Tensor:
            return subject.candidate.forward_fused(
                prepared, hidden_states, router_weight, router_bias, config.top_k
            )

        return layer
