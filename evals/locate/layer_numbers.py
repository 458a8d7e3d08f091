"""The numbers of one layer: the first stage that errs by itself, and in which row.

Its output is judged against the bound; its trace, each stage from the candidate's own
stage before it; without a trace, its rows slot by slot; at last what is systematic in
errors that are all within the bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace

import torch

from mxmoe.conformance.bounds.own import Layer
from mxmoe.conformance.bounds.own import judge_own
from mxmoe.conformance.bounds.propagated import Judged
from mxmoe.conformance.bounds.propagated import judge_rank
from mxmoe.conformance.judging.structure import structure_lines
from mxmoe.conformance.judging.trace import TRACED
from mxmoe.conformance.judging.trace import read_trace
from mxmoe.conformance.residual.structure import Situation
from mxmoe.conformance.verdict import Failure
from mxmoe.evals.locate.divergence import Divergence
from mxmoe.evals.locate.divergence import first_divergence
from mxmoe.evals.locate.evaluations import Evaluations
from mxmoe.evals.locate.layer_under_test import LayerUnderTest
from mxmoe.evals.locate.layer_under_test import forward
from mxmoe.evals.locate.layer_under_test import tokens_at_once
from mxmoe.evals.locate.nonfinite_experts import at_origin
from mxmoe.evals.locate.slot_by_slot import allowed_by_slot
from mxmoe.evals.locate.slot_by_slot import rows_by_slot
from mxmoe.reference.types import WHOLE
from mxmoe.reference.types import Routing
from mxmoe.reference.types import Trace

BY_TRACE, BY_SLOT, BY_OUTPUT = "trace", "slot by slot", "output"

# What is systematic is searched in so many tokens that all directions together, one
# an expert and four more, take this much memory in float64; and in so many at most.
_DIRECTIONS_BYTES = 2**28
_RESIDUAL_ROWS = 96


@dataclass(frozen=True, kw_only=True, eq=False)
class Numbers:
    """What the numbers of a layer show.

    seen : how the divergence was seen. worst : largest error / allowed of the output.
    out : the candidate's output [t, h], trace : its stages, in float64. residual :
    lines about what is systematic where all is within bounds.
    """

    divergence: Divergence | None = None
    seen: str = BY_OUTPUT
    worst: float = 0.0
    out: torch.Tensor | None = None
    trace: Mapping[str, torch.Tensor] = field(default_factory=dict)
    residual: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def judge_numbers(
    under: LayerUnderTest, count: Evaluations
) -> tuple[LayerUnderTest, Numbers]:
    """The first tokens that are wrong, alone, and what is; all of them if none are.

    The candidate is called once with all tokens; stages and bounds are held for as
    many as fit into memory. Raises `Failure` where `forward` does.
    """
    count.layers += 1
    out = forward(under, under.inputs)
    right = None
    for rows in torch.arange(len(out)).split(tokens_at_once(under.config)):
        part = under if len(rows) == len(out) else under.of_tokens(rows)
        numbers = _judge_part(part, out[rows], count)
        if numbers.divergence is not None:
            return part, numbers
        right = right or (part, numbers)
    assert right is not None
    return right


def _judge_part(
    under: LayerUnderTest, out: torch.Tensor, count: Evaluations
) -> Numbers:
    layer, routing = under.layer(), under.inputs.routing
    judged = judge_rank(
        layer.part,
        layer.config,
        layer.hidden_states,
        routing,
        shard=WHOLE,
        arithmetic=layer.arithmetic,
    )
    truth, allowed = judged.truth["combine"], judged.allowed["combine"]
    output = first_divergence("combine", out, truth, allowed, routing)
    trace, notes = _trace(under, count)
    seen = Numbers(worst=0.0 if output is None else output.worst, out=out, trace=trace)
    if trace:
        found, agrees = _by_trace(layer, trace, out), _agrees(trace, out, allowed)
        if found is not None and (agrees or output is None):
            if not agrees:
                notes.append("the output is right, the trace is not")
            found = _at_origin(under, found, count)
            return replace(seen, divergence=found, seen=BY_TRACE, notes=tuple(notes))
        if output is not None:
            notes.append("forward does not compute what its trace shows")
    if output is not None or "down" not in trace:
        found, how, more = _by_slot(under, judged, output, count)
        if found is not None:
            notes += more
            return replace(seen, divergence=found, seen=how, notes=tuple(notes))
    residual = _residual(layer, judged, out)
    return replace(seen, residual=tuple(residual), notes=tuple(notes))


def _trace(
    under: LayerUnderTest, count: Evaluations
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The exposed stages with rows [t, k, ...]; or none, and why."""
    subject, inputs = under.candidate.subject, under.inputs
    if not subject.has("trace"):
        return {}, ["gate_up, activation, down: not observable (exposes no trace)"]
    count.traces += 1
    try:
        returned = subject.call(
            "trace",
            under.candidate.weights,
            inputs.hidden_states.to(subject.device),
            inputs.routing.clone().to(subject.device),
        )
        found = read_trace(returned)
    except Failure as error:
        first = error.text.splitlines()[0]
        return {}, [f"gate_up, activation, down: not observable ({first})"]
    t, k = inputs.routing.ids.shape
    config = under.config
    wide = {"gate_up": 2 * config.intermediate, "activation": config.intermediate}
    trace, notes = {}, []
    for stage, tensor in found.items():
        lead = (t,) if stage == "combine" else (t, k)
        shape = (*lead, wide.get(stage, config.hidden))
        if tensor.numel() != torch.Size(shape).numel():
            notes.append(
                f"{stage}: not observable (expected {list(shape)}, "
                f"found {list(tensor.shape)})"
            )
            continue
        trace[stage] = tensor.detach().to("cpu", torch.float64).reshape(shape)
    missing = [stage for stage in TRACED[:-1] if stage not in found]
    if missing:
        notes.append(f"{', '.join(missing)}: not observable (not in the trace)")
    return trace, notes


def _by_trace(
    layer: Layer, trace: Mapping[str, torch.Tensor], out: torch.Tensor
) -> Divergence | None:
    """The first stage that errs by itself; the output stands for a last one."""
    own = judge_own(layer, trace)
    for stage in TRACED:
        found = trace.get(stage, out if stage == "combine" else None)
        if found is None:
            continue
        divergence = first_divergence(
            stage, found, own.truth[stage], own.allowed[stage], layer.routing
        )
        if divergence is not None:
            return divergence
    return None


def _agrees(
    trace: Mapping[str, torch.Tensor], out: torch.Tensor, allowed: torch.Tensor
) -> bool:
    """Whether the trace's last stage is the output, as two honest runs may differ."""
    shown = trace.get("combine")
    if shown is None:
        return True
    same = (shown - out).abs() <= 2 * allowed
    return bool((same | (~shown.isfinite() & ~out.isfinite())).all())


def _by_slot(
    under: LayerUnderTest,
    judged: Judged,
    output: Divergence | None,
    count: Evaluations,
) -> tuple[Divergence | None, str, list[str]]:
    """The row that is wrong alone, or `output` where each row is right alone."""
    subject, inputs = under.candidate.subject, under.inputs
    try:
        rows = rows_by_slot(subject, under.candidate.prepared, inputs, count)
    except Failure as error:
        first = error.text.splitlines()[0]
        return output, BY_OUTPUT, [f"one slot alone: not observable ({first})"]
    found = first_divergence(
        "down",
        rows,
        judged.truth["down"],
        allowed_by_slot(judged, subject.arithmetic),
        inputs.routing,
    )
    if found is not None:
        return _at_origin(under, found, count), BY_SLOT, []
    if output is None:
        return None, BY_OUTPUT, []
    return output, BY_OUTPUT, ["every slot is right alone, their sum is not"]


def _at_origin(
    under: LayerUnderTest, found: Divergence, count: Evaluations
) -> Divergence:
    experts = under.candidate
    return at_origin(found, experts.subject, experts.prepared, under.inputs, count)


def _residual(layer: Layer, judged: Judged, out: torch.Tensor) -> list[str]:
    """Of as many tokens as there is memory for."""
    each = 8 * layer.config.hidden * (layer.config.experts + 4)
    some = slice(0, min(_RESIDUAL_ROWS, max(1, _DIRECTIONS_BYTES // each)))
    situation = Situation(
        part=layer.part,
        config=layer.config,
        hidden_states=layer.hidden_states[some],
        routing=Routing(layer.routing.ids[some], layer.routing.weights[some]),
        shard=layer.shard,
        arithmetic=layer.arithmetic,
        truth=Trace({name: stage[some] for name, stage in judged.truth.stages.items()}),
        allowed=judged.allowed["combine"][some],
    )
    return structure_lines(situation, out[some] - judged.truth["combine"][some])[1]
