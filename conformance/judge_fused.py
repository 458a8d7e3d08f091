"""`forward_fused`: routing inside the op, judged away from ties."""

from __future__ import annotations

from dataclasses import replace

import torch

from mxmoe.conformance.bounds import U_FLOAT32
from mxmoe.conformance.bounds import dot_error
from mxmoe.conformance.bounds import half_ulp
from mxmoe.conformance.case import Case
from mxmoe.conformance.compare_numbers import compare_numbers
from mxmoe.conformance.designed import CaseData
from mxmoe.conformance.judge import Judge
from mxmoe.conformance.judge_numbers import difference_lines
from mxmoe.conformance.verdict import Verdict
from mxmoe.reference.routing import route
from mxmoe.reference.routing import router_logits

# Softmax in float32 over k terms: the operations of `routing_bounds`, rounded up.
_SOFTMAX_UNITS = 64


def judge_fused(judge: Judge, case: Case) -> None:
    """Raise `Failure` unless the fused output is within its bound.

    Tokens whose k-th and next logit are closer than their error are left out:
    there another choice of experts is honest.
    """
    data, logit_error = _away_from_ties(judge, judge.data(case))
    inputs = judge.inputs(case, data)
    weights, device = data.weights, judge.subject.device
    bias = weights.router_bias
    out = judge.subject.call(
        "forward_fused",
        judge.subject.prepare(weights, data.config, case.shard),
        inputs.hidden_states,
        weights.router_weight.to(device),
        None if bias is None else bias.to(device),
        data.config.top_k,
    )
    out = judge.subject.checked_output("forward_fused", out, data.hidden_states.shape)
    # exp turns an absolute error of the logits into a relative one of the weights,
    # once for the term and once for the sum.
    relative = torch.expm1(2 * logit_error) + _SOFTMAX_UNITS * U_FLOAT32
    dtype = judge.subject.capabilities.routing_dtype()
    if dtype != torch.float32:
        relative += torch.finfo(dtype).eps / 2
    judged = judge.judged(case, data, relative.expand(data.routing.ids.shape))
    difference = compare_numbers(
        out, judged.truth["combine"], judged.allowed["combine"]
    )
    judge.saw(difference.worst)
    if not difference.within:
        raise judge.fail(
            Verdict.NONFINITE if difference.nonfinite else Verdict.MISMATCH,
            difference_lines(difference, data),
            case=case,
            what="output, routing fused",
            tensors={"found": out, "expected": judged.truth["combine"]},
        )


def _away_from_ties(judge: Judge, data: CaseData) -> tuple[CaseData, torch.Tensor]:
    """The tokens with a clear choice, and the largest logit error [t, 1] of each."""
    weights, config = data.weights, data.config
    x, w = data.hidden_states.double(), weights.router_weight.double()
    logits = router_logits(x, w, weights.router_bias)
    square = torch.einsum("th,eh->te", x**2, w**2)
    arithmetic = judge.subject.arithmetic
    error = dot_error(logits, square, config.hidden, arithmetic).allowed()
    error += U_FLOAT32 * logits.abs()
    # Kernels take logits in the dtype of the activations or in float32.
    error += half_ulp(logits.abs() + error, arithmetic.output)
    error = error.amax(dim=1, keepdim=True)
    ranked = logits.sort(dim=1, descending=True).values
    clear = torch.ones(len(logits), dtype=torch.bool)
    if config.top_k < config.experts:
        gap = ranked[:, config.top_k - 1] - ranked[:, config.top_k]
        clear = gap > 2 * error[:, 0]
    routing = route(logits[clear], config.top_k, routed_scaling=config.routed_scaling)
    kept = replace(data, hidden_states=data.hidden_states[clear], routing=routing)
    return kept, error[clear]
