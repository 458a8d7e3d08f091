"""`forward_fused`: routing inside the op, judged away from ties."""

from __future__ import annotations

from dataclasses import replace

from mxmoe.conformance.bounds.compare_numbers import compare_numbers
from mxmoe.conformance.bounds.fused import clear_choices
from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.judging.numbers import difference_lines
from mxmoe.conformance.verdict import Verdict
from mxmoe.conformance.why_numbers.fused import why_fused
from mxmoe.conformance.why_numbers.layer_steps import situation_of


def judge_fused(judge: Judge, case: Case) -> None:
    """Raise `Failure` unless the fused output is within its bound.

    Tokens whose k-th and next logit are closer than their error are left out:
    there another choice of experts is honest.
    """
    subject = judge.subject
    drawn = judge.data(case)
    weights, config = drawn.weights, drawn.config
    choices = clear_choices(weights, config, drawn.hidden_states, subject.arithmetic)
    data = replace(
        drawn,
        hidden_states=drawn.hidden_states[choices.clear],
        routing=choices.routing,
    )
    inputs = judge.inputs(case, data)
    bias = weights.router_bias
    out = subject.call(
        "forward_fused",
        subject.prepare(weights, config, case.shard),
        inputs.hidden_states,
        weights.router_weight.to(subject.device),
        None if bias is None else bias.to(subject.device),
        config.top_k,
    )
    out = subject.checked_output("forward_fused", out, data.hidden_states.shape)
    routing_error = choices.weight_error(subject.capabilities.routing_dtype())
    judged = judge.judged(case, data, routing_error)
    difference = compare_numbers(
        out, judged.truth["combine"], judged.allowed["combine"]
    )
    judge.saw(difference.worst)
    if not difference.within:
        lines = difference_lines(difference, data)
        if not judge.record.searching:
            situation = situation_of(case, data)
            lines += why_fused(out, situation, weights, judged, subject.arithmetic)
        raise judge.fail(
            Verdict.NONFINITE if difference.nonfinite else Verdict.MISMATCH,
            lines,
            case=case,
            what="output, routing fused",
            tensors={"found": out, "expected": judged.truth["combine"]},
        )
