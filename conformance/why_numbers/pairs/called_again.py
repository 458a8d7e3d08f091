"""The candidate, called again to explain a failure that is known already."""

from __future__ import annotations

import torch

from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.designed import CaseData
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.why_numbers.pairs.two_outputs import Side
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import PreparedWeights

Tensor = torch.Tensor


class Calls:
    """Outputs of a candidate on one rank; equal weights are prepared once."""

    def __init__(self, judge: Judge, case: Case) -> None:
        self.judge, self.case = judge.aside(), case
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

    def repeats(self, data: CaseData, out: Tensor) -> bool:
        """Whether the candidate gives `out` again, bit for bit."""
        return torch.equal(self.out(data).nan_to_num(), out.nan_to_num())

    def side(self, words: str, data: CaseData, out: Tensor) -> Side:
        """`out` with its own bound."""
        judged = self.judge.judged(self.case, data)
        return Side(words=words, case=self.case, data=data, judged=judged, out=out)
