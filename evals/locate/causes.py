"""Why a layer goes wrong where it does: what explains every row of the first expert."""

from __future__ import annotations

from dataclasses import replace

import torch

from mxmoe.conformance.bounds.own import judge_own
from mxmoe.conformance.bounds.propagated import Error
from mxmoe.conformance.bounds.propagated import activation_error
from mxmoe.conformance.bounds.propagated import half_ulp
from mxmoe.conformance.bounds.propagated import rounded_activation
from mxmoe.conformance.why_numbers.hypotheses import explain_numbers
from mxmoe.conformance.why_numbers.layer_steps import Situation
from mxmoe.evals.locate.activation_causes import activation_causes
from mxmoe.evals.locate.cause import Cause
from mxmoe.evals.locate.combine_causes import Sum
from mxmoe.evals.locate.combine_causes import weight_causes
from mxmoe.evals.locate.divergence import Divergence
from mxmoe.evals.locate.divergence import faint
from mxmoe.evals.locate.expert_product import expert_product
from mxmoe.evals.locate.expert_product import product_words
from mxmoe.evals.locate.gathered import gathered_words
from mxmoe.evals.locate.layer import LayerResult
from mxmoe.evals.locate.layer_numbers import BY_SLOT
from mxmoe.evals.locate.row_causes import row_cause
from mxmoe.evals.locate.row_causes import rows_add_nothing
from mxmoe.evals.locate.slot_row_causes import slot_row_causes
from mxmoe.reference.activation import activate
from mxmoe.reference.types import WHOLE
from mxmoe.reference.types import Routing

# Rows that hypotheses about a whole layer are tried on.
_ROWS = 24
# Rows that an activation is fitted to.
_FITTED = 256


def causes(result: LayerResult) -> list[Cause]:
    """What explains the first divergence of a layer, the most special first."""
    found = result.divergence
    if found is None or found.nonfinite:
        return []
    found = _as_rounded(result, found)
    if found.slot is None:
        return _of_output(result, found)
    if found.stage == "activation" and faint(found):
        return []
    if result.numbers.seen == BY_SLOT:
        return slot_row_causes(result, found)
    if found.stage == "activation":
        return [Cause(text=text) for text in _of_activation(result, found)]
    words = rows_add_nothing(found) or row_cause(found)
    if words is None:
        product = expert_product(result, found, own=True)
        words = product_words(result, found, product)
    if words is None and found.stage == "gate_up" and not faint(found):
        words = gathered_words(result, found)
    return [] if words is None else [Cause(text=words)]


def _as_rounded(result: LayerResult, found: Divergence) -> Divergence:
    """With a bound around what was found, which is rounded by its own size."""
    arithmetic = result.under.arithmetic
    dtype = {"down": arithmetic.slot, "activation": arithmetic.intermediate}.get(
        found.stage, arithmetic.accumulate
    )
    if found.stage == "combine" or result.numbers.seen == BY_SLOT:
        dtype = arithmetic.output
    return replace(found, allowed=found.allowed + half_ulp(found.found, dtype))


def _of_activation(result: LayerResult, found: Divergence) -> list[str]:
    """Other activations that give what was found, from the same gate_up."""
    under = result.under
    gate_up = result.numbers.trace.get("gate_up")
    if gate_up is None:
        gate_up = judge_own(under.layer(), {}).truth["gate_up"]
    rows = found.bad.any(dim=-1)
    z, got = gate_up[rows][:_FITTED], found.found[rows][:_FITTED]
    config = under.config
    a, nothing = activate(z, config.activation), torch.zeros_like(z)
    exact = activation_error(z, a, Error(nothing, nothing), config.activation)
    # Of the values found: another activation's roundings are as large as its values.
    allowed = rounded_activation(z, got, exact, config, under.arithmetic)[1]
    names = activation_causes(
        z, got, allowed, config.activation, through=lambda rows: rows
    )
    return names or [text for text in [row_cause(found)] if text is not None]


def _of_output(result: LayerResult, found: Divergence) -> list[Cause]:
    """Of a stage that has one row a token."""
    words = row_cause(found)
    if words is not None:
        return [Cause(text=words)]
    out = result.numbers.out
    if found.stage != "combine" or out is None:
        return []
    down = result.numbers.trace.get("down")
    if down is None:
        down = judge_own(result.under.layer(), result.numbers.trace).truth["down"]
    whole = Sum(
        out=found.found,
        allowed=found.allowed,
        down=down,
        routing=result.under.inputs.routing,
    )
    return weight_causes(whole) or _of_layer(result, out)


def _of_layer(result: LayerResult, out: torch.Tensor) -> list[Cause]:
    """Hypotheses about the whole layer, on its output."""
    under = result.under
    inputs = under.inputs.rows(torch.arange(min(_ROWS, len(out))))
    situation = Situation(
        part=under.weights,
        config=under.config,
        hidden_states=inputs.hidden_states,
        routing=Routing(inputs.routing.ids, inputs.routing.weights),
        shard=WHOLE,
    )
    names = explain_numbers(out[:_ROWS], situation, under.arithmetic)
    return [Cause(text=f"behaves as if: {'; or '.join(names)}")] if names else []
