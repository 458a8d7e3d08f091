"""Stages ``ids`` and ``weights`` of a candidate that routes, on the reference's logits.

Inside the model the router is transformers' own; a candidate that exposes `route` is
judged here. Ids are compared as sets: of equal logits it may choose any.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mxmoe.conformance.bounds.routing import weight_bound
from mxmoe.conformance.judging.as_routing import as_routing
from mxmoe.conformance.subject import Subject
from mxmoe.evals.locate.recorded_inputs import LayerInputs
from mxmoe.evals.locate.recorded_inputs import Token
from mxmoe.reference.routing import router_logits
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig


@dataclass(frozen=True)
class RoutingFault:
    """The first token that is routed wrongly, and one line about it."""

    stage: str
    token: Token
    line: str


def routing_fault(
    subject: Subject, weights: ExpertWeights, config: MoEConfig, inputs: LayerInputs
) -> RoutingFault | None:
    """None where every choice and weight is right; raises `Failure` as `route` does."""
    logits = router_logits(
        inputs.hidden_states, weights.router_weight, weights.router_bias, torch.float32
    )
    given = logits.to(subject.device)
    returned = subject.call("route", given.clone(), config.top_k)
    found = as_routing(returned, tokens=len(logits), top_k=config.top_k)
    ids, mine = found.ids.cpu().long(), found.weights.cpu().double()
    wrong = _wrong_choices(logits, ids, config)
    if wrong.any():
        row = int(wrong.int().argmax())
        best = logits[row].topk(config.top_k).indices.tolist()
        line = f"expected experts {sorted(best)}, found {sorted(ids[row].tolist())}"
        return RoutingFault("ids", inputs.tokens[row], line)
    chosen = logits.gather(1, ids).double()
    truth = chosen.softmax(dim=1) * config.routed_scaling
    dtype = subject.capabilities.routing_dtype()
    off = (mine - truth).abs() / weight_bound(chosen, truth, dtype)
    bad = ~(off <= 1)
    if not bad.any():
        return None
    row, slot = bad.nonzero()[0].tolist()
    line = (
        f"slot {slot} (expert {int(ids[row, slot])}): expected "
        f"{float(truth[row, slot]):.6g}, found {float(mine[row, slot]):.6g} "
        f"({float(off[row, slot]):.3g}x of what is allowed)"
    )
    return RoutingFault("weights", inputs.tokens[row], line)


def _wrong_choices(
    logits: torch.Tensor, ids: torch.Tensor, config: MoEConfig
) -> torch.Tensor:
    """bool [t]: ids outside the layer or twice, or logits that are not the largest."""
    ordered = ids.sort(dim=1).values
    wrong = (ordered[:, 1:] == ordered[:, :-1]).any(dim=1)
    outside = (ids < 0) | (ids >= config.experts)
    chosen = logits.gather(1, ids.clamp(0, config.experts - 1))
    best = logits.topk(config.top_k).values
    other = (chosen.sort(dim=1, descending=True).values != best).any(dim=1)
    return wrong | outside.any(dim=1) | other
