"""One forward pass against its bound, and everything a failure should say."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from mxmoe.conformance.bounds import Judged
from mxmoe.conformance.case import Case
from mxmoe.conformance.compare_numbers import NumberDifference
from mxmoe.conformance.compare_numbers import compare_numbers
from mxmoe.conformance.compare_numbers import damage
from mxmoe.conformance.designed import CaseData
from mxmoe.conformance.explain_numbers import Situation
from mxmoe.conformance.explain_numbers import explain_numbers
from mxmoe.conformance.explain_numbers import too_large
from mxmoe.conformance.judge import Judge
from mxmoe.conformance.subject import Subject
from mxmoe.conformance.verdict import Failure
from mxmoe.conformance.verdict import NotJudged
from mxmoe.conformance.verdict import Verdict
from mxmoe.conformance.verdict import not_run
from mxmoe.reference.moe import moe_of_rank
from mxmoe.reference.sharding import shard_weights
from mxmoe.reference.types import PreparedWeights
from mxmoe.reference.types import Trace

ROUTES = ("yours-yours", "yours-ours", "ours-yours")
"""The cells of the attribution matrix: whose prepare, whose forward."""

# Below this error / bound a missing or wrong term is less likely than a rounding.
_CLOSE = 4.0

TRACED = ("gate_up", "activation", "down", "combine")


def own_route(subject: Subject) -> str:
    """Where the candidate does most of the work: alone, or with our consumer."""
    return "yours-yours" if subject.has("forward") else "yours-ours"


def run_route(judge: Judge, case: Case, data: CaseData, route: str) -> torch.Tensor:
    """The output of one cell of the attribution matrix, [t, h].

    Raises `NotJudged` where the candidate lacks the member, or its layout is
    unknown to us.
    """
    subject = judge.subject
    whose_prepare, whose_forward = route.split("-")
    if (whose_prepare, whose_forward) == ("yours", "ours"):
        subject.need("prepare")
    make = subject.prepare if whose_prepare == "yours" else subject.our_prepare
    if whose_forward == "yours":
        subject.need("forward")
    prepared = make(data.weights, data.config, case.shard)
    inputs = judge.inputs(case, data)
    if whose_forward == "yours":
        out = subject.forward(prepared, inputs.hidden_states, inputs.routing)
        note_output_dtype(judge, out)
        return out
    return our_forward(judge, data, prepared)["combine"]


def our_forward(judge: Judge, data: CaseData, prepared: PreparedWeights) -> Trace:
    """Our consumer: read prepared bytes by the layout's inverse, compute in class."""
    layout = judge.subject.layout
    if layout is None:
        raise not_run("layout: the candidate's own, so we cannot consume it")
    return moe_of_rank(
        layout.restore(prepared).to("cpu"),
        data.config,
        data.hidden_states,
        data.routing,
        shard=prepared.shard,
        arithmetic=judge.subject.arithmetic,
    )


def judge_output(
    judge: Judge, case: Case, route: str = "yours-yours", tactic: object = None
) -> None:
    """Raise `Failure` unless every output element is within its bound."""
    data = judge.data(case)
    if tactic is None:
        out = run_route(judge, case, data, route)
    else:
        prepared = judge.subject.prepare(data.weights, data.config, case.shard)
        x = judge.inputs(case, data)
        out = judge.subject.forward(prepared, x.hidden_states, x.routing, tactic)
    judged = judge.judged(case, data)
    difference = compare_numbers(
        out, judged.truth["combine"], judged.allowed["combine"]
    )
    judge.saw(difference.worst)
    if difference.within:
        return
    lines = difference_lines(difference, data)
    if not judge.record.searching:
        lines += _first_bad_stage(judge, case, data, judged)
        lines += _why(judge, case, data, out, difference.worst)
    if route == "yours-yours" and tactic is None and not judge.record.searching:
        lines += attribution_lines(judge, case, data, judged)
    raise judge.fail(
        Verdict.NONFINITE if difference.nonfinite else Verdict.MISMATCH,
        lines,
        case=case,
        what=_what(route, tactic),
        tensors={
            "found": out,
            "expected": judged.truth["combine"],
            "allowed": judged.allowed["combine"],
            "hidden_states": data.hidden_states,
            "routing.ids": data.routing.ids,
            "routing.weights": data.routing.weights,
        },
    )


def _what(route: str, tactic: object) -> str:
    if tactic is not None:
        return f"output, tactic {tactic!r}"
    prepare, forward = route.split("-")
    if prepare == forward:
        return "output"
    consumer = "your forward" if forward == "yours" else "our consumer"
    return f"output ({prepare.removesuffix('s')} bytes, {consumer})"


def judge_every_tactic(judge: Judge, case: Case) -> None:
    """Force each tactic that the candidate enumerates for this shape."""
    enumerate_tactics = judge.subject.capabilities.tactics
    assert enumerate_tactics is not None
    config = judge.data(case).config
    tactics = list(enumerate_tactics(config, case.tokens))
    if not tactics:
        line = f"no tactic for {config.label()} with {case.tokens} tokens"
        raise judge.fail(Verdict.MISMATCH, [line], case=case, what="tactics")
    for tactic in tactics:
        judge_output(judge, case, tactic=tactic)


def note_output_dtype(judge: Judge, out: torch.Tensor) -> None:
    """A quality note when the output is finer or coarser than the class says."""
    wanted = judge.subject.arithmetic.output
    if out.dtype != wanted:
        judge.note(
            f"returns {out.dtype}, class {judge.subject.arithmetic.name} {wanted}"
        )


def difference_lines(difference: NumberDifference, data: CaseData) -> list[str]:
    """The worst element, the fraction, the shape of the damage."""
    token, column = difference.at
    bad, total = int(difference.bad.sum()), difference.bad.numel()
    ratio = f"{difference.worst:.3g}x"
    if difference.worst == float("inf"):
        ratio = "not finite" if difference.nonfinite else "nothing is allowed"
    lines = [
        f"token {token}, column {column}: expected {difference.expected:.6g}, "
        f"found {difference.found:.6g}, "
        f"off by {abs(difference.found - difference.expected):.3g}, "
        f"allowed {difference.allowed:.3g} ({ratio})",
        f"out of bound: {bad} of {total} elements ({100 * bad / total:.3g} %); "
        f"damage: {damage(difference.bad, data.routing)}",
    ]
    if difference.nonfinite:
        lines.append(f"not finite: {difference.nonfinite} of {total} elements")
    return lines


def judge_trace(judge: Judge, case: Case) -> None:
    """Raise `Failure` at the first traced stage that leaves its bound."""
    judge.subject.need("trace")
    data = judge.data(case)
    judged = judge.judged(case, data)
    trace = _trace(judge, case, data)
    for stage in TRACED:
        if stage not in trace:
            continue
        difference = _compare_stage(trace[stage], stage, judged)
        if difference is None:
            raise judge.fail(
                Verdict.MISMATCH,
                [
                    f"{stage}: expected {list(judged.truth[stage].shape)}, "
                    f"found {list(trace[stage].shape)}"
                ],
                case=case,
                what=f"trace {stage}",
            )
        judge.saw(difference.worst)
        if not difference.within:
            raise judge.fail(
                Verdict.NONFINITE if difference.nonfinite else Verdict.MISMATCH,
                [_stage_line(stage, difference, data)],
                case=case,
                what=f"trace {stage}",
                tensors={"found": trace[stage], "expected": judged.truth[stage]},
            )


def _trace(judge: Judge, case: Case, data: CaseData) -> dict[str, torch.Tensor]:
    inputs = judge.inputs(case, data)
    prepared = judge.subject.prepare(data.weights, data.config, case.shard)
    returned = judge.subject.call(
        "trace", prepared, inputs.hidden_states, inputs.routing
    )
    stages = getattr(returned, "stages", returned)
    if not isinstance(stages, Mapping):
        kind = type(stages).__name__
        line = f"trace returned {kind}, expected a mapping of stages to tensors"
        raise Failure(Verdict.MISMATCH, line)
    found = {name: stages[name] for name in TRACED if name in stages}
    if not found:
        names = ", ".join(map(str, stages)) or "none"
        line = f"trace: expected stages from {', '.join(TRACED)}, found {names}"
        raise Failure(Verdict.MISMATCH, line)
    for name, tensor in found.items():
        if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
            line = f"trace: {name}: expected a floating tensor, found {tensor!r:.40}"
            raise Failure(Verdict.MISMATCH, line)
    return found


def _compare_stage(
    found: torch.Tensor, stage: str, judged: Judged
) -> NumberDifference | None:
    truth, allowed = judged.truth[stage], judged.allowed[stage]
    if found.numel() != truth.numel():
        return None
    return compare_numbers(found, truth, allowed)


def _stage_line(stage: str, difference: NumberDifference, data: CaseData) -> str:
    at = difference.at
    where = f"token {at[0]}, column {at[-1]}"
    if len(at) == 3:
        expert = int(data.routing.ids[at[0], at[1]])
        where = f"token {at[0]}, slot {at[1]} (expert {expert}), column {at[2]}"
    return (
        f"{stage}, {where}: expected {difference.expected:.6g}, "
        f"found {difference.found:.6g}, allowed {difference.allowed:.3g}"
    )


def _first_bad_stage(
    judge: Judge, case: Case, data: CaseData, judged: Judged
) -> list[str]:
    if not judge.subject.has("trace"):
        return ["first bad stage: not observable (exposes no trace)"]
    try:
        trace = _trace(judge, case, data)
    except (Failure, NotJudged, AttributeError, TypeError) as error:
        return [f"first bad stage: not observable (trace failed: {error})"]
    for stage in TRACED:
        if stage not in trace:
            continue
        difference = _compare_stage(trace[stage], stage, judged)
        if difference is None or not difference.within:
            detail = (
                stage if difference is None else _stage_line(stage, difference, data)
            )
            return [f"first bad stage: {detail}"]
    return ["first bad stage: none; the trace is within its bounds, the output is not"]


def _why(
    judge: Judge, case: Case, data: CaseData, out: torch.Tensor, worst: float
) -> list[str]:
    part = shard_weights(data.weights, data.config, case.shard)
    situation = Situation(
        part=part,
        config=data.config,
        hidden_states=data.hidden_states,
        routing=data.routing,
        shard=case.shard,
    )
    names = explain_numbers(out, situation, judge.subject.arithmetic)
    if names:
        return [f"why    behaves as if: {'; or '.join(names)}"]
    if too_large(part):
        return ["why    not searched: there are too many weights for it"]
    if worst < _CLOSE:
        return [
            "why    close to the bound: a rounding that class "
            f"{judge.subject.arithmetic.name} does not have? A trace shows the stage"
        ]
    return ["why    none of the known hypotheses gives this output"]


def attribution_lines(
    judge: Judge, case: Case, data: CaseData, judged: Judged
) -> list[str]:
    """{your prepare, ours} x {your forward, our consumer}, as one line."""
    if not judge.subject.has("prepare"):
        return ["attribution: the bytes are ours, so your kernel is wrong"]
    cells = {}
    for route in ("yours-ours", "ours-yours"):
        try:
            out = run_route(judge, case, data, route)
        except NotJudged as error:
            return [f"attribution: {error.reason}"]
        except Failure:
            cells[route] = False
            continue
        truth, allowed = judged.truth["combine"], judged.allowed["combine"]
        cells[route] = compare_numbers(out, truth, allowed).within
    if cells["yours-ours"] and not cells["ours-yours"]:
        return ["attribution: your bytes are right, your kernel is wrong"]
    if cells["ours-yours"] and not cells["yours-ours"]:
        return ["attribution: your kernel is right, your bytes are wrong"]
    if not any(cells.values()):
        return ["attribution: your bytes are wrong and your kernel is wrong"]
    return ["attribution: each is right with ours; together they disagree"]
