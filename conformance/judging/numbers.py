"""One forward pass against its bound, and everything a failure should say."""

from __future__ import annotations

from functools import partial

import torch

from mxmoe.conformance.bounds.compare_numbers import NumberDifference
from mxmoe.conformance.bounds.compare_numbers import compare_numbers
from mxmoe.conformance.bounds.compare_numbers import damage
from mxmoe.conformance.bounds.propagated import Judged
from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.designed import CaseData
from mxmoe.conformance.judging.experts_reached import Reached
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.judging.trace import first_bad_stage
from mxmoe.conformance.subject import Subject
from mxmoe.conformance.verdict import Failure
from mxmoe.conformance.verdict import NotJudged
from mxmoe.conformance.verdict import Verdict
from mxmoe.conformance.verdict import not_run
from mxmoe.conformance.why_bytes.describe import wrong_form
from mxmoe.conformance.why_numbers.kept import explain_kept
from mxmoe.conformance.why_numbers.ranks.beside import with_its_group
from mxmoe.conformance.why_numbers.stages.first_stage import first_wrong_stage
from mxmoe.conformance.why_numbers.telling_case import Told
from mxmoe.conformance.why_numbers.telling_case import tell
from mxmoe.conformance.why_numbers.telling_case import tell_by_counts
from mxmoe.conformance.why_numbers.why_lines import names_cause
from mxmoe.conformance.why_numbers.why_lines import why_lines
from mxmoe.reference.moe import moe_of_rank
from mxmoe.reference.types import PreparedWeights
from mxmoe.reference.types import Trace

ROUTES = ("yours-yours", "yours-ours", "ours-yours")
"""The cells of the attribution matrix: whose prepare, whose forward."""


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
        judge.record.reach([_reached(case, data)])
        return
    lines = difference_lines(difference, data)
    if not judge.record.searching:
        said = explained_output(judge, case, data, out, difference, route, tactic)
        lines += with_its_group(judge, case, said)
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


def explained_output(
    judge: Judge,
    case: Case,
    data: CaseData,
    out: torch.Tensor,
    difference: NumberDifference,
    route: str = "yours-yours",
    tactic: object = None,
) -> list[str]:
    """The first wrong stage, the cause, and whose bytes or kernel it is."""
    judged = judge.judged(case, data)
    # Before the calls that only explain: these may lose the device.
    out = out.detach().cpu()
    stage = first_bad_stage(judge, case, data, judged)
    attributed = list[str]()
    if route == "yours-yours" and tactic is None:
        attributed = attribution_lines(judge, case, data, judged)
    try:
        why = why_lines(
            case,
            data,
            judged,
            out,
            judge.subject.arithmetic,
            difference.worst,
            lambda: _told(judge, case, data, route, difference),
            lambda: _counted(judge, case, data, route),
            lambda told: _kept(judge, case, data, route, told),
        )
    # The output is wrong, whatever happens to the search for the cause.
    except Exception as error:
        why = [f"why    not searched to the end, a bug of mxmoe: {error!r}"]
    if not names_cause(why) and not judge.subject.has("trace"):
        stage = _read_off(judge, case, data, route) or stage
    return [*stage, *why, *attributed]


def _told(
    judge: Judge,
    case: Case,
    data: CaseData,
    route: str,
    difference: NumberDifference,
) -> Told | None:
    if not judge.record.telling:
        return None
    graded = difference.nonfinite > 0
    run = partial(run_route, route=route)
    return tell(judge, case, data.config, run, graded=graded)


def _counted(judge: Judge, case: Case, data: CaseData, route: str) -> Told | None:
    run = partial(run_route, route=route)
    return tell_by_counts(judge, case, data.config, run)


def _kept(
    judge: Judge, case: Case, data: CaseData, route: str, told: Told | None
) -> list[str]:
    if not judge.record.telling:
        return []
    run = partial(run_route, route=route)
    return explain_kept(judge, case, data, run, told)


def _read_off(judge: Judge, case: Case, data: CaseData, route: str) -> list[str]:
    if not judge.record.telling:
        return []
    run = partial(run_route, route=route)
    return first_wrong_stage(judge, case, data.config, run)


def _what(route: str, tactic: object) -> str:
    if tactic is not None:
        return f"output, tactic {tactic!r}"
    prepare, forward = route.split("-")
    if prepare == forward:
        return "output"
    consumer = "your forward" if forward == "yours" else "our consumer"
    return f"output ({prepare.removesuffix('s')} bytes, {consumer})"


def _reached(case: Case, data: CaseData) -> Reached:
    ids, experts = data.routing.ids, data.config.experts
    return Reached(
        where=f"e{experts}" if case.layer is None else f"layer{case.layer}",
        experts=experts,
        ids=tuple(ids[ids >= 0].unique().tolist()),
    )


def judge_every_tactic(judge: Judge, case: Case) -> None:
    """Force each tactic that the candidate enumerates for this shape."""
    config = judge.data(case).config
    claims = judge.subject.capabilities
    tactics = claims.tactics_of(config, case.tokens, case.shard)
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
    if data.experts_reached < data.config.experts:
        lines.append(
            f"experts reached: {data.experts_reached} of {data.config.experts}; "
            "this case says nothing about the others"
        )
    return lines


def _wrong_form(judge: Judge, case: Case, data: CaseData) -> str | None:
    """What keeps our consumer from reading the candidate's bytes, if it knows them."""
    layout, subject = judge.subject.layout, judge.subject
    if layout is None:
        return None
    try:
        prepared = subject.prepare(data.weights, data.config, case.shard)
    except Failure:
        return None
    return wrong_form(layout, prepared, data.weights, data.config)


def attribution_lines(
    judge: Judge, case: Case, data: CaseData, judged: Judged
) -> list[str]:
    """{your prepare, ours} x {your forward, our consumer}, as one line."""
    if not judge.subject.has("prepare"):
        return ["attribution: the bytes are ours, so your kernel is wrong"]
    if problem := _wrong_form(judge, case, data):
        return [f"attribution: your bytes have another form: {problem}"]
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
