"""The candidate, called again to explain a failure that is known already."""

from __future__ import annotations

import torch

from mxmoe.conformance.case import Case
from mxmoe.conformance.designed import CaseData
from mxmoe.conformance.judge import Judge
from mxmoe.conformance.why_numbers.telling_case import aside
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import PreparedWeights

Tensor = torch.Tensor


class Calls:
    """Outputs of a candidate on one rank; equal weights are prepared once."""

    def __init__(self, judge: Judge, case: Case) -> None:
        self.judge, self.case = aside(judge), case
        self._weights: ExpertWeights | None = None
        self._prepared: PreparedWeights | None = None

    def out(self, data: CaseData) -> Tensor:
        """float64 [t, h] on the CPU; raises what the candidate raises."""
        subject = self.judge.subject
        if self._prepared is None or self._weights is not data.weights:
            self._weights = data.weights
            self._prepared = subject.prepare(data.weights, data.config, self.case.shard)
        x = self.judge.inputs(self.case, data)
        out = subject.forward(self._prepared, x.hidden_states, x.routing)
        return out.detach().cpu().double()
