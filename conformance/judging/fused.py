"""`forward_fused`: routing inside the op, judged away from ties."""

from __future__ import annotations

from dataclasses import replace

import torch

from mxmoe.conformance.bounds.compare_numbers import compare_numbers
from mxmoe.conformance.bounds.fused import clear_choices
from mxmoe.conformance.bounds.propagated import Judged
from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.designed import CaseData
from mxmoe.conformance.judging.as_routing import as_routing
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.judging.numbers import difference_lines
from mxmoe.conformance.judging.structure import residual_situation
from mxmoe.conformance.judging.structure import rounding_lines
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
    stored = subject.capabilities.routing_dtype()
    routing_error = choices.weight_error(stored)
    judged = judge.judged(case, data, routing_error)
    difference = compare_numbers(
        out, judged.truth["combine"], judged.allowed["combine"]
    )
    judge.saw(difference.worst)
    tensors = {"found": out, "expected": judged.truth["combine"]}
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
            tensors=tensors,
        )
    # Where `route` keeps its weights in float32, the op does not round them either.
    kept = stored is not torch.bfloat16 and _routes_in_float32(judge, data)
    if lines := _roundings(judge, case, data, judged, out) if kept else []:
        raise judge.fail(
            Verdict.MISMATCH,
            lines,
            case=case,
            what="residual, routing fused",
            tensors=tensors,
        )


def _roundings(
    judge: Judge, case: Case, data: CaseData, judged: Judged, out: torch.Tensor
) -> list[str]:
    residual = out.detach().cpu().double() - judged.truth["combine"]
    return rounding_lines(residual_situation(judge, case, data, judged), residual)


def _routes_in_float32(judge: Judge, data: CaseData) -> bool:
    if not judge.subject.has("route"):
        return False
    k = data.config.top_k
    logits = torch.zeros(1, data.config.experts, device=judge.subject.device)
    found = as_routing(judge.subject.call("route", logits, k), tokens=1, top_k=k)
    return found.weights.dtype is torch.float32
