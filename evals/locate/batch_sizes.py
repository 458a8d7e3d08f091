"""Calls of other numbers of tokens: kernels choose their tiles by how many there are.

The rows are those that were recorded, again and again, so that their truth is known:
each call is judged, and none needs a bound of its own.
"""

from __future__ import annotations

import torch

from mxmoe.conformance.bounds.propagated import judge_rank
from mxmoe.evals.locate.divergence import first_divergence
from mxmoe.evals.locate.evaluations import Evaluations
from mxmoe.evals.locate.layer_under_test import LayerUnderTest
from mxmoe.evals.locate.layer_under_test import forward
from mxmoe.evals.locate.whole_model import WrongCall
from mxmoe.reference.types import WHOLE

# Every power of two up to a prefill chunk that small servers use, and one odd number
# of tokens behind the largest usual tile of rows, 256.
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 257, 512)
# Rows that are repeated.
_ROWS = 64


def first_wrong_size(under: LayerUnderTest, count: Evaluations) -> WrongCall | None:
    """The smallest call that is wrong; raises `Failure` where `forward` does."""
    base = under.of_tokens(torch.arange(min(_ROWS, len(under.inputs.tokens))))
    layer = base.layer()
    judged = judge_rank(
        layer.part,
        layer.config,
        layer.hidden_states,
        layer.routing,
        shard=WHOLE,
        arithmetic=layer.arithmetic,
    )
    truth, allowed = judged.truth["combine"], judged.allowed["combine"]
    for size in _SIZES:
        rows = torch.arange(size) % len(truth)
        inputs = base.inputs.rows(rows)
        count.sizes += 1
        found = first_divergence(
            "combine",
            forward(under, inputs),
            truth[rows],
            allowed[rows],
            inputs.routing,
        )
        if found is not None:
            return WrongCall(layer=under.number, inputs=inputs, divergence=found)
    return None
