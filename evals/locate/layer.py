"""One layer of a candidate, judged alone on what the reference gives it.

In this order: its prepared bytes, where the layout is known; its routing, where it
routes; its numbers; and those of its `forward_fused`, if it has one.
"""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import field

from mxmoe.conformance.verdict import Failure
from mxmoe.evals.locate.divergence import Divergence
from mxmoe.evals.locate.evaluations import Evaluations
from mxmoe.evals.locate.fused_layer import fused_divergence
from mxmoe.evals.locate.layer_bytes import WrongBytes
from mxmoe.evals.locate.layer_bytes import wrong_bytes
from mxmoe.evals.locate.layer_numbers import Numbers
from mxmoe.evals.locate.layer_numbers import judge_numbers
from mxmoe.evals.locate.layer_under_test import LayerUnderTest
from mxmoe.evals.locate.routed import RoutingFault
from mxmoe.evals.locate.routed import routing_fault


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerResult:
    """What was found in a layer. failure : a call that raised or did not return."""

    under: LayerUnderTest
    wrong_bytes: tuple[WrongBytes, ...] = ()
    routing: RoutingFault | None = None
    numbers: Numbers = field(default_factory=Numbers)
    failure: Failure | None = None

    @property
    def divergence(self) -> Divergence | None:
        """The first place at which a stage leaves its bound."""
        return self.numbers.divergence

    @property
    def wrong(self) -> bool:
        """Whether anything is."""
        return bool(
            self.wrong_bytes
            or self.routing
            or self.divergence
            or self.numbers.residual
            or self.failure
        )


def judge_layer(under: LayerUnderTest, count: Evaluations) -> LayerResult:
    """Everything that can be said of one layer."""
    subject = under.candidate.subject
    differs = wrong_bytes(under.candidate.weights, under.weights, under.config)
    routing = None
    try:
        if subject.has("route"):
            routing = routing_fault(subject, under.weights, under.config, under.inputs)
        part, numbers = judge_numbers(under, count)
        if numbers.divergence is None and subject.has("forward_fused"):
            part, numbers = _with_fused(part, numbers, under, count)
    except Failure as failure:
        return LayerResult(
            under=under, wrong_bytes=differs, routing=routing, failure=failure
        )
    return LayerResult(
        under=part, wrong_bytes=differs, routing=routing, numbers=numbers
    )


def _with_fused(
    part: LayerUnderTest, numbers: Numbers, under: LayerUnderTest, count: Evaluations
) -> tuple[LayerUnderTest, Numbers]:
    fused = fused_divergence(under, count)
    if fused is None:
        return part, numbers
    tokens, found = fused
    note = "only in forward_fused, which routes by itself; forward is right"
    notes = (note, *numbers.notes)
    return tokens, Numbers(divergence=found, worst=found.worst, notes=notes)
