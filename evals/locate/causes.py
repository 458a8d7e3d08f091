"""Why a layer goes wrong where it does: what explains every row of the first expert."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import replace

import torch

from mxmoe.conformance.bounds import Error
from mxmoe.conformance.bounds import activation_error
from mxmoe.conformance.bounds import rounded_activation
from mxmoe.conformance.compare_numbers import compare_numbers
from mxmoe.conformance.explain_numbers import Situation
from mxmoe.conformance.explain_numbers import explain_numbers
from mxmoe.conformance.explain_numbers import hypotheses
from mxmoe.conformance.own_bounds import judge_own
from mxmoe.evals.locate.bias_order import bias_words
from mxmoe.evals.locate.divergence import Divergence
from mxmoe.evals.locate.lane_causes import WrongLane
from mxmoe.evals.locate.lane_causes import half_change
from mxmoe.evals.locate.lane_causes import wrong_lane
from mxmoe.evals.locate.layer import LayerResult
from mxmoe.evals.locate.layer_numbers import BY_SLOT
from mxmoe.evals.locate.product_causes import Product
from mxmoe.evals.locate.product_causes import added_biases
from mxmoe.evals.locate.product_causes import column_cause
from mxmoe.evals.locate.product_causes import column_causes
from mxmoe.evals.locate.row_causes import row_cause
from mxmoe.reference.activation import activate
from mxmoe.reference.formats import decode
from mxmoe.reference.types import WHOLE
from mxmoe.reference.types import Activation
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Routing

# Rows that hypotheses about a whole layer are tried on.
_ROWS = 24
HALVES = ("gate", "up")


@dataclass(frozen=True, kw_only=True)
class Cause:
    """One explanation. stage, column : where it lies, if elsewhere than it was seen."""

    text: str
    stage: str | None = None
    column: int | None = None


def causes(result: LayerResult) -> list[Cause]:
    """What explains the first divergence of a layer, the most special first."""
    found = result.divergence
    if found is None or found.nonfinite:
        return []
    if result.numbers.seen == BY_SLOT:
        return _of_slot_rows(result, found)
    if found.stage == "activation":
        return [Cause(text=text) for text in _of_activation(result, found)]
    if found.stage in ("gate_up", "down"):
        product = _product(result, found)
        texts = _of_product(result, found, product)
        if texts:
            return [Cause(text=text) for text in texts]
    text = row_cause(found)
    if text is not None:
        return [Cause(text=text)]
    return [Cause(text=text) for text in _of_output(result)]


def _product(result: LayerResult, found: Divergence) -> Product:
    """The GEMM of the divergence, for its first expert."""
    under, expert = result.under, found.expert
    assert expert is not None
    at, w = found.rows_of(expert), under.weights
    if found.stage == "gate_up":
        x = under.inputs.hidden_states[at.any(dim=1)].double()
        matrix = decode(w.gate_up_blocks[expert], w.gate_up_scales[expert])
        bias = w.gate_up_bias
    else:
        shown = result.numbers.trace.get("activation")
        if shown is None:
            shown = judge_own(under.layer(), result.numbers.trace).truth["activation"]
        x, bias = shown[at], w.down_bias
        matrix = decode(w.down_blocks[expert], w.down_scales[expert])
    return Product(
        inputs=x,
        weights=matrix,
        bias=torch.zeros(len(matrix)).double()
        if bias is None
        else bias[expert].double(),
        residual=found.found[at] - found.truth[at],
        allowed=found.allowed[at],
        bad=found.bad[at],
    )


def _of_product(result: LayerResult, found: Divergence, product: Product) -> list[str]:
    added = added_biases(product)
    name = f"{found.stage}_bias"
    whole = result.under.weights.tensors().get(name)
    if added is not None and whole is not None:
        assert found.expert is not None
        near = 2 * product.allowed.amax(dim=0)
        words = bias_words(name, whole, found.expert, added, near)
        if words:
            return words
    column = found.column
    first = column_cause(product, column)
    if first is None:
        return []
    text = first.words(float(product.bias[column]))
    others = column_causes(product)
    same = [c for c, cause in others.items() if _alike(cause, first)]
    total = len(product.columns)
    if len(same) > 1 and len(same) == len(others):
        return [f"{text}; so it is in all {total} wrong columns"]
    if len(same) > 1:
        return [f"{text}; the same in {len(same)} of the first {len(others)} columns"]
    return [text]


def _alike(one: object, other: object) -> bool:
    keys = [(getattr(c, "kind", None), getattr(c, "place", None)) for c in (one, other)]
    return one is not None and keys[0] == keys[1]


def _of_activation(result: LayerResult, found: Divergence) -> list[str]:
    """Other activations that give what was found, from the same gate_up."""
    under = result.under
    gate_up = result.numbers.trace.get("gate_up")
    if gate_up is None:
        gate_up = judge_own(under.layer(), {}).truth["gate_up"]
    rows = found.bad.any(dim=-1)
    z, got = gate_up[rows], found.found[rows]
    names = []
    for name, activation in _activations(_situation(result)):
        config = replace(under.config, activation=activation)
        truth, allowed = _activated(z, config, result)
        if compare_numbers(got, truth, allowed).within:
            names.append(f"behaves as if: {name}")
    return names or [text for text in [row_cause(found)] if text is not None]


def _activated(
    z: torch.Tensor, config: MoEConfig, result: LayerResult
) -> tuple[torch.Tensor, torch.Tensor]:
    arithmetic = result.under.arithmetic
    a, nothing = activate(z, config.activation), torch.zeros_like(z)
    exact = activation_error(z, a, Error(nothing, nothing), config.activation)
    return a, rounded_activation(z, a, exact, config, arithmetic)[1]


def _activations(situation: Situation) -> list[tuple[str, Activation]]:
    own = situation.config.activation
    edited = [(name, edit(situation)) for name, edit in hypotheses(situation)]
    return [
        (name, s.config.activation) for name, s in edited if s.config.activation != own
    ]


def _of_slot_rows(result: LayerResult, found: Divergence) -> list[Cause]:
    text = row_cause(found)
    if text is not None:
        adds = "adds nothing" in text or "add nothing" in text or "times what" in text
        return [Cause(text=text, stage="combine" if adds else None)]
    product = _product(
        replace(result, numbers=replace(result.numbers, trace={})), found
    )
    lane = wrong_lane(product.residual, product.allowed, product.weights)
    if lane is not None:
        return _of_lane(result, found, lane)
    texts = _of_product(result, found, product)
    if texts:
        return [Cause(text=text) for text in texts]
    return [Cause(text=text) for text in _of_expert(result, found)]


def _of_lane(result: LayerResult, found: Divergence, lane: WrongLane) -> list[Cause]:
    under, expert = result.under, found.expert
    assert expert is not None
    at, w = found.rows_of(expert), under.weights
    own = judge_own(under.layer(), {})
    z, near = own.truth["gate_up"][at], own.allowed["gate_up"][at]
    x = under.inputs.hidden_states[at.any(dim=1)].double()
    w1 = decode(w.gate_up_blocks[expert], w.gate_up_scales[expert])
    bias = torch.zeros(len(w1)) if w.gate_up_bias is None else w.gate_up_bias[expert]
    found_causes = []
    for half, word in enumerate(HALVES):
        known = half_change(lane, z, under.config.activation, half)
        if known is None:
            continue
        change, exactly = known
        rows, column = change.isfinite(), 2 * lane.lane + half
        product = Product(
            inputs=x[rows],
            weights=w1[column : column + 1],
            bias=bias[column : column + 1].double(),
            residual=change[rows, None],
            allowed=(exactly + near[:, column])[rows, None],
            bad=torch.ones(int(rows.sum()), 1, dtype=torch.bool),
        )
        cause = column_cause(product, 0)
        if cause is not None:
            text = f"{word} {lane.lane}: {cause.words(float(product.bias[0]))}"
            found_causes.append(Cause(text=text, stage="gate_up", column=column))
    if len(found_causes) == 1:
        _, _, text = found_causes[0].text.partition(": ")
        return [replace(found_causes[0], text=text)]
    if found_causes:
        return found_causes
    text = f"lane {lane.lane} of the activation alone explains every row"
    return [Cause(text=text, stage="activation", column=lane.lane)]


def _situation(result: LayerResult, rows: slice = slice(_ROWS)) -> Situation:
    under = result.under
    routing = under.inputs.routing
    return Situation(
        part=under.weights,
        config=under.config,
        hidden_states=under.inputs.hidden_states[rows],
        routing=Routing(routing.ids[rows], routing.weights[rows]),
        shard=WHOLE,
    )


def _of_expert(result: LayerResult, found: Divergence) -> list[str]:
    """Hypotheses about the weights, and the other experts, on the expert's own rows."""
    under, expert = result.under, found.expert
    assert expert is not None
    at = found.rows_of(expert)
    x = under.inputs.hidden_states[at.any(dim=1)][:_ROWS]
    rows = found.found[at][:_ROWS]

    def routed_to(e: int) -> Situation:
        ids = torch.full((len(x), 1), e, dtype=torch.int32)
        config = replace(under.config, top_k=1)
        return Situation(
            part=under.weights,
            config=config,
            hidden_states=x,
            routing=Routing(ids, torch.ones(len(x), 1)),
            shard=WHOLE,
        )

    arithmetic = under.arithmetic
    names = explain_numbers(rows, routed_to(expert), arithmetic)
    if names:
        return [f"behaves as if: {'; or '.join(names)}"]
    for other in range(under.config.experts):
        s = routed_to(other)
        layer = replace(
            under.layer(),
            config=s.config,
            hidden_states=s.hidden_states,
            routing=s.routing,
        )
        own = judge_own(layer, {})
        truth, allowed = own.truth["combine"], own.allowed["combine"]
        if compare_numbers(rows, truth, allowed).within:
            return [f"computed with the weights of expert {other}"]
    return []


def _of_output(result: LayerResult) -> list[str]:
    """Hypotheses about the whole layer, on its output."""
    if result.numbers.out is None:
        return []
    names = explain_numbers(
        result.numbers.out[:_ROWS],
        _situation(result),
        result.under.arithmetic,
    )
    return [f"behaves as if: {'; or '.join(names)}"] if names else []
