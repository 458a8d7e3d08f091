"""The stages that a candidate exposes, each against its bound."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from mxmoe.conformance.bounds.compare_numbers import NumberDifference
from mxmoe.conformance.bounds.compare_numbers import compare_numbers
from mxmoe.conformance.bounds.propagated import Judged
from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.designed import CaseData
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.verdict import Failure
from mxmoe.conformance.verdict import NotJudged
from mxmoe.conformance.verdict import Verdict
from mxmoe.conformance.why_numbers.layer_steps import situation_of
from mxmoe.conformance.why_numbers.moved import alternatives
from mxmoe.conformance.why_numbers.nonfinite import first_nonfinite
from mxmoe.conformance.why_numbers.stages.stage import explain_stage

TRACED = ("gate_up", "activation", "down", "combine")


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
        judge.saw(difference.worst, stage=stage)
        if not difference.within:
            lines = [_stage_line(stage, difference, data)]
            if not judge.record.searching:
                situation, arithmetic = (
                    situation_of(case, data),
                    judge.subject.arithmetic,
                )
                if names := explain_stage(stage, trace, judged, situation, arithmetic):
                    lines.append(f"why    behaves as if: {alternatives(names)}")
            raise judge.fail(
                Verdict.NONFINITE if difference.nonfinite else Verdict.MISMATCH,
                lines,
                case=case,
                what=f"trace {stage}",
                tensors={
                    "found": trace[stage],
                    "expected": judged.truth[stage],
                    "allowed": judged.allowed[stage],
                },
            )


def _trace(judge: Judge, case: Case, data: CaseData) -> dict[str, torch.Tensor]:
    inputs = judge.inputs(case, data)
    prepared = judge.subject.prepare(data.weights, data.config, case.shard)
    returned = judge.subject.call(
        "trace", prepared, inputs.hidden_states, inputs.routing
    )
    return read_trace(returned)


def read_trace(returned: object) -> dict[str, torch.Tensor]:
    """The stages in what `trace` returned; `Failure` for anything else."""
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


def first_bad_stage(
    judge: Judge, case: Case, data: CaseData, judged: Judged
) -> list[str]:
    """For a failure: where the trace leaves its bounds, and where it is not finite."""
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
            lines = [f"first bad stage: {detail}"]
            if difference is not None and difference.nonfinite:
                lines += first_nonfinite(trace, situation_of(case, data))
            return lines
    return ["first bad stage: none; the trace is within its bounds, the output is not"]
