"""A law put to a candidate: two outputs of its own, compared with each other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from mxmoe.conformance.bounds.compare_numbers import NumberDifference
from mxmoe.conformance.bounds.compare_numbers import compare_numbers
from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.designed import CaseData
from mxmoe.conformance.judging.group_outputs import group_of
from mxmoe.conformance.judging.group_outputs import rank_outputs
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.laws.layer import Law
from mxmoe.conformance.laws.pairs import Pair
from mxmoe.conformance.verdict import Verdict
from mxmoe.conformance.why_numbers.pairs.law import Broken
from mxmoe.conformance.why_numbers.pairs.law import why_law
from mxmoe.conformance.why_numbers.ranks.apart import why_apart
from mxmoe.reference.types import WHOLE


def judge_law(judge: Judge, case: Case, law: Law) -> None:
    """Raise `Failure` unless the second output is what the first one says."""
    random = np.random.default_rng((case.seed, 5))
    pair = law.pair(judge.data(case), case.shard, random)
    before, after = (_output(judge, case, data) for data in (pair.before, pair.after))
    expected, found = pair.expect(before), after[pair.rows]
    exact = law.exact_if is not None and bool(
        getattr(judge.subject.capabilities, law.exact_if)
    )
    if exact and torch.equal(expected, found):
        return
    allowed = torch.zeros_like(expected)
    if not exact:
        allowed = _rounding(judge, case, pair)
    difference = compare_numbers(found, expected, allowed)
    judge.saw(difference.worst)
    if difference.within:
        return
    how = f"bit for bit: {law.exact_if} is declared" if exact else "within rounding"
    lines = [f"broken law: {law.statement} ({how})", _where(difference)]
    if not judge.record.searching:
        row, *_ = difference.at
        broken = Broken(pair=pair, before=before, after=after, exact=exact, row=row)
        lines += why_law(judge, case, broken)
    raise judge.fail(
        Verdict.NONFINITE if difference.nonfinite else Verdict.MISMATCH,
        lines,
        case=case,
        what="law",
        tensors={"first": before, "second": after, "allowed": allowed},
    )


def judge_ranks_add_up(judge: Judge, case: Case) -> None:
    """Raise `Failure` unless the ranks' outputs add up to the candidate's own whole."""
    group = group_of(judge, case)
    judge.subject.require(group.data.config, WHOLE)
    whole = _output(judge, replace(case, shard=WHOLE), group.data)
    outputs = rank_outputs(judge, group)
    total = torch.stack([out.double() for out in outputs]).sum(dim=0)
    alone = judge.judged(replace(case, shard=WHOLE), group.data)
    allowed = group.allowed.sum(dim=0) + alone.allowed["combine"]
    difference = compare_numbers(total, whole, allowed)
    judge.saw(difference.worst)
    if difference.within:
        return
    line = "broken law: the outputs of all ranks add up to that of one rank alone"
    lines = [f"{line} (within rounding)", _where(difference)]
    if not judge.record.searching:
        lines += why_apart(judge, group, whole, alone, outputs)
    raise judge.fail(
        Verdict.NONFINITE if difference.nonfinite else Verdict.MISMATCH,
        lines,
        case=case,
        what="law of ranks",
        tensors={"first": whole, "second": total, "allowed": allowed},
    )


def _output(judge: Judge, case: Case, data: CaseData) -> torch.Tensor:
    prepared = judge.subject.prepare(data.weights, data.config, case.shard)
    x = judge.inputs(case, data)
    out = judge.subject.forward(prepared, x.hidden_states, x.routing)
    return out.detach().cpu().double()


def _rounding(judge: Judge, case: Case, pair: Pair) -> torch.Tensor:
    """Each output may be off by its own bound."""
    before, after = (
        judge.judged(case, data).allowed["combine"]
        for data in (pair.before, pair.after)
    )
    return pair.expect(before).abs() + after[pair.rows]


def _where(difference: NumberDifference) -> str:
    row, column = difference.at
    bad, total = int(difference.bad.sum()), difference.bad.numel()
    off = abs(difference.found - difference.expected)
    return (
        f"row {row}, column {column}: by the first output {difference.expected:.9g}, "
        f"the second is {difference.found:.9g}, off by {off:.3g}, allowed "
        f"{difference.allowed:.3g}; {bad} of {total} elements are beyond"
    )
