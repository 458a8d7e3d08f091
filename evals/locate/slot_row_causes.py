"""Why rows of ``down`` are wrong that were seen slot by slot, behind both GEMMs.

The truth of what came before stands for what the candidate does not show: a fault of
the first GEMM or of the activation is found if it explains the rows through the second.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from mxmoe.conformance.bounds.compare_numbers import compare_numbers
from mxmoe.conformance.bounds.own import judge_own
from mxmoe.conformance.bounds.propagated import half_ulp
from mxmoe.conformance.why_numbers.hypotheses import explain_numbers
from mxmoe.conformance.why_numbers.layer_steps import Situation
from mxmoe.evals.locate.activation_causes import activation_causes
from mxmoe.evals.locate.cause import Cause
from mxmoe.evals.locate.combine_causes import OTHER_WEIGHTS
from mxmoe.evals.locate.combine_causes import Sum
from mxmoe.evals.locate.combine_causes import weight_causes
from mxmoe.evals.locate.divergence import Divergence
from mxmoe.evals.locate.divergence import faint
from mxmoe.evals.locate.expert_product import expert_product
from mxmoe.evals.locate.expert_product import product_words
from mxmoe.evals.locate.gathered import gathered_words
from mxmoe.evals.locate.gemm_before import gate_up_words
from mxmoe.evals.locate.lane_causes import wrong_lanes
from mxmoe.evals.locate.layer import LayerResult
from mxmoe.evals.locate.row_causes import row_cause
from mxmoe.evals.locate.row_causes import rows_add_nothing
from mxmoe.evals.locate.row_causes import rows_times
from mxmoe.evals.locate.wrong_lane_causes import lane_words
from mxmoe.reference.formats import decode
from mxmoe.reference.types import WHOLE
from mxmoe.reference.types import Routing

# Rows of the expert that hypotheses are tried on.
_ROWS = 24


def slot_row_causes(result: LayerResult, found: Divergence) -> list[Cause]:
    """What explains every row of the first expert, where it lies, or ()."""
    causes = _of_weights(result)
    if causes:
        return causes
    words = [] if faint(found) else _of_activation(result, found)
    if words:
        return [Cause(text=text, stage="activation") for text in words]
    nothing = rows_add_nothing(found)
    if nothing is not None and "rows of the expert" in nothing:
        return [Cause(text=nothing)]
    factor = nothing or rows_times(found)
    if factor is not None:
        return [Cause(text=factor, stage="combine")]
    text = row_cause(found)
    if text is not None:
        return [Cause(text=text)]
    product = expert_product(result, found, own=False)
    lanes = wrong_lanes(product.residual, product.allowed, product.weights)
    if lanes:
        return lane_words(result, found, lanes)
    text = product_words(result, found, product)
    if text is not None or faint(found):
        return [] if text is None else [Cause(text=text)]
    text = gathered_words(result, found)
    if text is not None:
        return [Cause(text=text, stage="gate_up")]
    text = gate_up_words(result, found)
    if text is not None:
        return [Cause(text=text, stage="gate_up")]
    return _of_expert(result, found)


def _of_weights(result: LayerResult) -> list[Cause]:
    """What the whole output says of the routing weights, if every row is right."""
    out = result.numbers.out
    if out is None:
        return []
    own = judge_own(result.under.layer(), {})
    whole = Sum(
        out=out,
        allowed=own.allowed["combine"] + half_ulp(out, result.under.arithmetic.output),
        down=own.truth["down"],
        routing=result.under.inputs.routing,
    )
    return [
        replace(cause, stage="combine")
        for cause in weight_causes(whole)
        if cause.text != OTHER_WEIGHTS
    ]


def _of_activation(result: LayerResult, found: Divergence) -> list[str]:
    under, expert = result.under, found.expert
    assert expert is not None
    w, at = under.weights, found.rows_of(expert) & found.bad.any(dim=-1)
    matrix = decode(w.down_blocks[expert], w.down_scales[expert])
    bias = 0 if w.down_bias is None else w.down_bias[expert].double()
    return activation_causes(
        judge_own(under.layer(), {}).truth["gate_up"][at][:_ROWS],
        found.found[at][:_ROWS],
        found.allowed[at][:_ROWS],
        under.config.activation,
        through=lambda rows: rows @ matrix.T + bias,
    )


def _of_expert(result: LayerResult, found: Divergence) -> list[Cause]:
    """Hypotheses about the weights, and the other experts, on the expert's own rows."""
    under, expert = result.under, found.expert
    assert expert is not None
    at = found.rows_of(expert)
    x = under.inputs.hidden_states[at.any(dim=1)][:_ROWS]
    rows = found.found[at][:_ROWS]

    def routed_to(e: int) -> Routing:
        ids = torch.full((len(x), 1), e, dtype=torch.int32)
        return Routing(ids, torch.ones(len(x), 1))

    for other in range(under.config.experts):
        own = judge_own(under.layer_of(x, routed_to(other)), {})
        truth, allowed = own.truth["combine"], own.allowed["combine"]
        if compare_numbers(rows, truth, allowed).within:
            return [Cause(text=f"computed with the weights of expert {other}")]
    layer = under.layer_of(x, routed_to(expert))
    situation = Situation(
        part=under.weights,
        config=layer.config,
        hidden_states=x,
        routing=layer.routing,
        shard=WHOLE,
    )
    names = explain_numbers(rows, situation, under.arithmetic)
    return [Cause(text=f"behaves as if: {'; or '.join(names)}")] if names else []
