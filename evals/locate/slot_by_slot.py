"""Rows of a candidate that shows none: one slot of every token at a time.

`top_k` calls with weight 1, in which all other slots hold id -1 and so add exactly
nothing, give each (token, slot) row of ``down``, in the dtype of the output.
"""

from __future__ import annotations

import torch

from mxmoe.conformance.bounds.propagated import Judged
from mxmoe.conformance.bounds.propagated import half_ulp
from mxmoe.conformance.subject import Subject
from mxmoe.evals.locate.evaluations import Evaluations
from mxmoe.evals.locate.recorded_inputs import LayerInputs
from mxmoe.reference.types import Arithmetic
from mxmoe.reference.types import Routing


def rows_by_slot(
    subject: Subject, prepared: object, inputs: LayerInputs, count: Evaluations
) -> torch.Tensor:
    """``down`` [t, k, h] in float64; raises `Failure` where a call does."""
    ids, device = inputs.routing.ids, subject.device
    x, rows = inputs.hidden_states.to(device), []
    for slot in range(ids.shape[1]):
        alone = torch.full_like(ids, -1)
        alone[:, slot] = ids[:, slot]
        ones = torch.ones(ids.shape, dtype=torch.float32)
        routing = Routing(alone, ones).to(device)
        count.masked += 1
        out = subject.forward(prepared, x, routing)  # type: ignore[arg-type]
        rows.append(out.detach().to("cpu", torch.float64))
    return torch.stack(rows, dim=1)


def allowed_by_slot(judged: Judged, arithmetic: Arithmetic) -> torch.Tensor:
    """The bound of those rows: of ``down``, and the rounding of the output."""
    truth, allowed = judged.truth["down"], judged.allowed["down"]
    return allowed + half_ulp(truth.abs() + allowed, arithmetic.output)
