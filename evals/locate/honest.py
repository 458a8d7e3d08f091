"""The yardstick: the same rows, computed honestly in the candidate's class."""

from __future__ import annotations

from dataclasses import replace

import torch

from mxmoe.conformance.bounds.own import judge_own
from mxmoe.evals.locate.layer import LayerResult
from mxmoe.evals.locate.layer_numbers import BY_SLOT
from mxmoe.reference.moe import moe_of_rank

# Tokens with a wrong row that are computed again.
_ROWS = 32


def error_over_honest(result: LayerResult) -> float | None:
    """The rms error of the wrong rows, over that of an honest computation of them.

    Each stage from its own stage before it, the honest one's too. None where that is
    exact, or the found rows are not finite.
    """
    found = result.divergence
    if found is None or found.nonfinite:
        return None
    rows = found.bad.flatten(1).any(dim=1).nonzero()[:_ROWS, 0]
    layer = replace(result.under, inputs=result.under.inputs.rows(rows)).layer()
    honest = moe_of_rank(
        layer.part,
        layer.config,
        layer.hidden_states,
        layer.routing,
        shard=layer.shard,
        arithmetic=layer.arithmetic,
    )
    bad = found.bad[rows].any(dim=-1)
    by_slot = result.numbers.seen == BY_SLOT
    stages = {} if by_slot else {s: x.double() for s, x in honest.stages.items()}
    right = honest[found.stage]
    if by_slot:
        right = right.to(layer.arithmetic.output)
    truth = judge_own(layer, stages).truth[found.stage]
    usual = _rms((right.double() - truth)[bad])
    error = _rms((found.found - found.truth)[rows][bad])
    return error / usual if usual > 0 else None


def _rms(errors: torch.Tensor) -> float:
    return float(errors.square().mean().sqrt())
