"""What a candidate's `route` returned -> `Routing` on the CPU, or a failure."""

from __future__ import annotations

import torch

from mxmoe.conformance.verdict import Failure
from mxmoe.conformance.verdict import Verdict
from mxmoe.reference.types import Routing


def as_routing(returned: object, *, tokens: int, top_k: int) -> Routing:
    """Accepts ``(ids, weights)`` or an object with both, each [t, k]."""
    if isinstance(returned, (tuple, list)) and len(returned) == 2:
        ids, weights = returned
    else:
        ids, weights = (getattr(returned, name, None) for name in ("ids", "weights"))
    for name, tensor in (("ids", ids), ("weights", weights)):
        found = type(tensor).__name__
        if isinstance(tensor, torch.Tensor):
            if tensor.shape == (tokens, top_k):
                continue
            found = str(list(tensor.shape))
        raise Failure(
            Verdict.MISMATCH,
            f"route: expected (ids, weights), {name} a tensor [{tokens}, {top_k}], "
            f"found {found}",
        )
    if ids.is_floating_point() or not weights.is_floating_point():
        raise Failure(
            Verdict.MISMATCH,
            "route: expected integer ids and floating weights, "
            f"found {ids.dtype} and {weights.dtype}",
        )
    return Routing(ids.detach().cpu(), weights.detach().cpu())
