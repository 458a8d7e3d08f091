"""All ranks of a group against the whole layer, in one process.

    sum_r out_r  may be off by  sum_r allowed_r

The truth is the *whole* layer in float64, computed without any sharding, so that a
mistake in our own cutting shows as well. Rank r may deviate from its exact partial
sum by `allowed_r` (`propagated.judge_rank` on its part, its own rounding to the output
dtype included), and exact partial sums add up to the whole: by the triangle
inequality the sum of the outputs, taken here in float64, is off by at most the sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from mxmoe.conformance.bounds.compare_numbers import compare_numbers
from mxmoe.conformance.bounds.propagated import half_ulp
from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.judging.group_outputs import Group
from mxmoe.conformance.judging.group_outputs import group_of
from mxmoe.conformance.judging.group_outputs import rank_outputs
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.judging.numbers import difference_lines
from mxmoe.conformance.verdict import Verdict
from mxmoe.conformance.verdict import unsupported
from mxmoe.conformance.why_numbers.ranks.apart import why_each
from mxmoe.conformance.why_numbers.ranks.reduced import explain_reduced
from mxmoe.conformance.why_numbers.ranks.reduced import without_place
from mxmoe.conformance.why_numbers.ranks.seen import told_group
from mxmoe.conformance.why_numbers.ranks.sum import Terms
from mxmoe.reference.types import Shard

# So many sentences are printed; more of them say that the case cannot tell.
_SHOWN = 6


def need_shards(judge: Judge, *members: str) -> None:
    """Raise `NotJudged` if the candidate declares no shards, or lacks a member."""
    if judge.subject.capabilities.shards == "whole":
        raise unsupported("shards: whole")
    judge.subject.need(*members)


def judge_sum(judge: Judge, case: Case) -> None:
    """Raise `Failure` unless the ranks' outputs add up to the whole layer."""
    group = group_of(judge, case)
    outputs = rank_outputs(judge, group)
    total = torch.stack([out.double() for out in outputs]).sum(dim=0)
    allowed = group.allowed.sum(dim=0)
    difference = compare_numbers(total, group.whole, allowed)
    judge.saw(difference.worst, stage="all_reduce")
    if difference.within:
        return
    lines = difference_lines(difference, group.data)
    if not judge.record.searching:
        lines += why_each(judge, group, outputs)
    raise judge.fail(
        Verdict.NONFINITE if difference.nonfinite else Verdict.MISMATCH,
        lines,
        case=case,
        what=f"sum over {len(group.ranks)} ranks",
        tensors={"found": total, "expected": group.whole, "allowed": allowed}
        | {f"rank.{r}": out for r, out in enumerate(outputs)},
    )


def judge_each_rank(judge: Judge, case: Case) -> None:
    """Raise `Failure` unless every rank adds what it owns, and nothing else.

    A sum hides what one rank adds in another's place. Where a rank owns nothing that
    a token asks for (an expert elsewhere, no lanes and no bias) it adds exactly 0.
    """
    group = group_of(judge, case)
    outputs = rank_outputs(judge, group)
    for r, out in enumerate(outputs):
        truth, allowed = group.partials[r], group.allowed[r]
        nothing = idle_rows(group, group.ranks[r])
        truth, allowed = truth.clone(), allowed.clone()
        truth[nothing], allowed[nothing] = 0, 0
        difference = compare_numbers(out, truth, allowed)
        judge.saw(difference.worst, stage="all_reduce")
        if difference.within:
            continue
        rank = group.ranks[r].label()
        lines = difference_lines(difference, group.data)
        stray = int((difference.bad.any(dim=1) & nothing).sum())
        if stray:
            lines.append(
                f"{stray} tokens ask for nothing that rank {rank} owns, "
                "and should get exactly 0 from it"
            )
        if not judge.record.searching:
            lines += why_each(judge, group, outputs)
        raise judge.fail(
            Verdict.NONFINITE if difference.nonfinite else Verdict.MISMATCH,
            lines,
            case=case,
            what=f"output of rank {rank}, which owns {owned(group, r)}",
            tensors={"found": out, "expected": truth, "allowed": allowed},
        )


def idle_rows(group: Group, rank: Shard) -> torch.Tensor:
    """[t]: tokens to which `rank` adds exactly nothing."""
    config, ids = group.data.config, group.data.routing.ids
    experts = rank.expert_range(config)
    if not config.has_bias and not rank.intermediate_range(config):
        return torch.ones(len(ids), dtype=torch.bool)
    return ~((ids >= experts.start) & (ids < experts.stop)).any(dim=1)


def owned(group: Group, r: int) -> str:
    """``experts 0..3, lanes 64..127 of i``"""
    config, rank = group.data.config, group.ranks[r]
    experts, lanes = rank.expert_range(config), rank.intermediate_range(config)
    what = f"experts {experts.start}..{experts.stop - 1}, "
    if lanes:
        return f"{what}lanes {lanes.start}..{lanes.stop - 1} of i"
    return f"{what}no lane of i"


def why_sum_lines(names: list[str]) -> list[str]:
    """The line ``why`` of a sum over ranks."""
    if names:
        more = f"; or {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        return [f"why    behaves as if: {'; or '.join(names[:_SHOWN])}{more}"]
    return ["why    no mixture of the ranks' outputs gives this sum"]


def reduce_rounding(
    magnitude: torch.Tensor, additions: int, dtype: torch.dtype
) -> torch.Tensor:
    """What adding ranks in `dtype` may be off by, in any order.

    magnitude : sum_r |out_r|, which no exact partial sum exceeds; each of the
    `additions` rounds one of them once, by at most its half_ulp, after earlier
    roundings by at most eps / 2 each.
    """
    grown = magnitude * (1 + additions * torch.finfo(dtype).eps)
    return additions * half_ulp(grown, dtype)


def judge_all_reduce(judge: Judge, case: Case) -> None:
    """The candidate's own `all_reduce` of its ranks' outputs, against their sum.

    n outputs are added with n - 1 roundings, and one more if the result's dtype is
    another: each within `reduce_rounding` of the candidate's output dtype.
    """
    judge.subject.need("all_reduce")
    group = group_of(judge, case)
    outputs = rank_outputs(judge, group)
    found = _reduced(judge, outputs)
    terms = _terms_of(group, outputs)
    truth, rounding = terms.partials.sum(dim=0), terms.allowed.sum(dim=0)
    difference = compare_numbers(found, truth, rounding)
    judge.saw(difference.worst, stage="all_reduce")
    if difference.within:
        return
    lines = difference_lines(difference, group.data)
    if not judge.record.searching:
        lines += why_sum_lines(_why_reduced(judge, group, found, terms))
    raise judge.fail(
        Verdict.NONFINITE if difference.nonfinite else Verdict.MISMATCH,
        lines,
        case=case,
        what=f"all_reduce of {len(outputs)} ranks",
        tensors={"found": found, "expected": truth, "allowed": rounding},
    )


def _reduced(judge: Judge, outputs: Sequence[torch.Tensor]) -> torch.Tensor:
    """What the candidate's all_reduce makes of outputs [t, h]."""
    given = [out.to(judge.subject.device) for out in outputs]
    found = judge.subject.call("all_reduce", given)
    found = judge.subject.checked_output("all_reduce", found, outputs[0].shape)
    return found.detach().cpu()


def _terms_of(group: Group, outputs: Sequence[torch.Tensor]) -> Terms:
    """The outputs as what is added, with an equal share of the rounding each."""
    exact = torch.stack([out.double() for out in outputs])
    magnitude = exact.abs().sum(dim=0)
    rounding = reduce_rounding(magnitude, len(outputs), outputs[0].dtype)
    share = (rounding / len(outputs)).expand_as(exact)
    none = torch.zeros_like(rounding)
    return replace(group.terms(none), partials=exact, allowed=share)


def _why_reduced(
    judge: Judge, group: Group, found: torch.Tensor, terms: Terms
) -> list[str]:
    """What is true of this sum and of that on a telling group, if it is wrong there."""
    arithmetic = judge.subject.arithmetic
    ours = explain_reduced(found, terms, arithmetic)
    told = told_group(judge, group) if judge.record.telling else None
    if told is None:
        return ours
    try:
        sums = _reduced(judge, told.outputs)
    # It explains a failure and must not become another one.
    except Exception:
        return ours
    theirs = explain_reduced(sums, _terms_of(told.group, told.outputs), arithmetic)
    # Other tokens and columns in the other case, but the same ranks.
    words = {without_place(name) for name in theirs}
    return [name for name in ours if without_place(name) in words] or ours or theirs
