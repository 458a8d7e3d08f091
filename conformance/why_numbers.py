"""Why an output is out of bound: every search that this suite has, simplest first."""

from __future__ import annotations

import torch

from mxmoe.conformance.bounds import Judged
from mxmoe.conformance.case import Case
from mxmoe.conformance.designed import CaseData
from mxmoe.conformance.explain_constants import explain_constants
from mxmoe.conformance.explain_numbers import explain_numbers
from mxmoe.conformance.explain_numbers import too_large
from mxmoe.conformance.explain_output import Output
from mxmoe.conformance.explain_output import explain_output
from mxmoe.conformance.explain_slots import explain_slots
from mxmoe.conformance.explain_slots import slots_of
from mxmoe.conformance.explain_stages import explain_stages
from mxmoe.conformance.layer_steps import Situation
from mxmoe.reference.sharding import shard_weights
from mxmoe.reference.types import Arithmetic

# Below this error / bound a missing or wrong term is less likely than a rounding.
_CLOSE = 4.0

# One that leaves more of the mean square of the errors explains nothing: an element is
# out of bound by little then. Of the others the closest count, and those like them.
_CLOSER = 0.5

# So many sentences are printed; more of them say that the case cannot tell.
_SHOWN = 6


def why_lines(
    case: Case,
    data: CaseData,
    judged: Judged,
    out: torch.Tensor,
    arithmetic: Arithmetic,
    worst: float,
) -> list[str]:
    """The line that begins ``why``: what `out` [t, h] behaves like.

    worst : the largest error / allowed.
    """
    part = shard_weights(data.weights, data.config, case.shard)
    situation = Situation(
        part=part,
        config=data.config,
        hidden_states=data.hidden_states,
        routing=data.routing,
        shard=case.shard,
    )
    names = _causes(situation, judged, out, arithmetic)
    if names:
        more = f"; or {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        return [f"why    behaves as if: {'; or '.join(names[:_SHOWN])}{more}"]
    if too_large(part):
        return ["why    not searched: there are too many weights for it"]
    if worst < _CLOSE:
        return [
            "why    close to the bound: a rounding that class "
            f"{arithmetic.name} does not have? A trace shows the stage"
        ]
    return ["why    none of the known hypotheses gives this output"]


def _causes(
    situation: Situation, judged: Judged, out: torch.Tensor, arithmetic: Arithmetic
) -> list[str]:
    truth, allowed = judged.truth["combine"], judged.allowed["combine"]
    found = out.detach().cpu().double().reshape(truth.shape)
    output = Output(
        found=found,
        truth=truth,
        allowed=allowed,
        hidden_states=situation.hidden_states.double(),
        arithmetic=arithmetic,
    )
    s = situation
    names = explain_output(output) + explain_numbers(found, situation, arithmetic)
    if not names:
        slots = slots_of(found, judged, s.routing, s.config, s.shard, arithmetic)
        names = explain_slots(slots)
    if not names and not too_large(situation.part) and bool(found.isfinite().all()):
        close = [
            fit
            for explain in (explain_stages, explain_constants)
            for fit in explain(found, allowed, situation, arithmetic)
            if fit.left < _CLOSER
        ]
        least = min((fit.left for fit in close), default=0.0)
        names = [fit.name for fit in close if fit.left <= 2 * least]
    return list(dict.fromkeys(names))
