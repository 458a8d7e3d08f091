"""Which expert makes NaN or infinity: each alone, the others' ids set to -1.

0 * NaN is NaN: in a kernel that masks by multiplying, one expert's NaN is soon in the
rows of all others.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from mxmoe.conformance.subject import Subject
from mxmoe.conformance.verdict import Failure
from mxmoe.evals.locate.divergence import Divergence
from mxmoe.evals.locate.evaluations import Evaluations
from mxmoe.evals.locate.recorded_inputs import LayerInputs
from mxmoe.reference.types import Routing


def at_origin(
    found: Divergence,
    subject: Subject,
    prepared: object,
    inputs: LayerInputs,
    count: Evaluations,
) -> Divergence:
    """`found` at the first expert that is not finite alone; as it is if none is."""
    if found.slot is None or not found.nonfinite:
        return found
    spoilt = (found.bad & ~found.found.isfinite()).any(dim=-1)
    suspects = found.routing.ids[spoilt].unique().tolist()
    if len(suspects) < 2:
        return found
    guilty = [e for e in suspects if not _finite(e, subject, prepared, inputs, count)]
    if not guilty:
        return found
    others = ~torch.isin(found.routing.ids, torch.tensor(guilty, dtype=torch.int32))
    # The rows that only caught it are not held against their experts.
    bad = found.bad & ~(others & spoilt)[..., None]
    return replace(found, bad=bad).at_expert(guilty[0])


def _finite(
    expert: int,
    subject: Subject,
    prepared: object,
    inputs: LayerInputs,
    count: Evaluations,
) -> bool:
    ids = inputs.routing.ids
    tokens = (ids == expert).any(dim=1)
    alone = torch.where(ids == expert, ids, -1)[tokens]
    routing = Routing(alone, torch.ones(alone.shape, dtype=torch.float32))
    x = inputs.hidden_states[tokens].to(subject.device)
    count.masked += 1
    try:
        out = subject.forward(prepared, x, routing.to(subject.device))  # type: ignore[arg-type]
    except Failure:
        return False
    return bool(out.isfinite().all())
