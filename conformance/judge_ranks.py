"""All ranks of a group against the whole layer, in one process.

    sum_r out_r  may be off by  sum_r allowed_r

The truth is the *whole* layer in float64, computed without any sharding, so that a
mistake in our own cutting shows as well. Rank r may deviate from its exact partial
sum by `allowed_r` (`bounds.judge_rank` on its part, its own rounding to the output
dtype included), and exact partial sums add up to the whole: by the triangle
inequality the sum of the outputs, taken here in float64, is off by at most the sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import replace

import torch

from mxmoe.conformance.bounds import half_ulp
from mxmoe.conformance.case import Case
from mxmoe.conformance.compare_numbers import compare_numbers
from mxmoe.conformance.designed import CaseData
from mxmoe.conformance.judge import Judge
from mxmoe.conformance.judge_numbers import difference_lines
from mxmoe.conformance.rank_groups import ranks_of
from mxmoe.conformance.verdict import Failure
from mxmoe.conformance.verdict import Verdict
from mxmoe.conformance.verdict import not_run
from mxmoe.conformance.verdict import unsupported
from mxmoe.conformance.why_numbers.causes import causes
from mxmoe.conformance.why_numbers.layer_steps import situation_of
from mxmoe.conformance.why_numbers.ranks_sum import Terms
from mxmoe.conformance.why_numbers.ranks_sum import explain_ranks
from mxmoe.reference.moe import moe
from mxmoe.reference.types import Shard

# Sentences that are printed of one rank.
_SHOWN = 4


@dataclass(frozen=True, kw_only=True)
class Group:
    """The input of all ranks, and what each of them and their sum should give.

    partials, allowed : [r, t, h] by global rank. whole : [t, h].
    """

    case: Case
    data: CaseData
    ranks: tuple[Shard, ...]
    partials: torch.Tensor
    allowed: torch.Tensor
    whole: torch.Tensor

    def terms(self, rounding: torch.Tensor, own: int | None = None) -> Terms:
        """What hypotheses about the output of rank `own`, or of all, may mix."""
        return Terms(
            labels=tuple(rank.label() for rank in self.ranks),
            partials=self.partials,
            allowed=self.allowed,
            bias=routed_bias(self.data),
            residual=self.data.hidden_states.double(),
            rounding=rounding,
            tp_size=self.case.shard.tp_size,
            ep_size=self.case.shard.ep_size,
            own=own,
        )


def need_shards(judge: Judge, *members: str) -> None:
    """Raise `NotJudged` if the candidate declares no shards, or lacks a member."""
    if judge.subject.capabilities.shards == "whole":
        raise unsupported("shards: whole")
    judge.subject.need(*members)


def group_of(judge: Judge, case: Case) -> Group:
    """Truth and bounds; raises `NotJudged` if a rank is not supported."""
    if case.shard.is_whole():
        raise not_run(f"{case} names one rank: its output is L3's to judge")
    ranks = ranks_of(case.shard)
    data = judge.data(case)
    for rank in ranks:
        judge.subject.require(data.config, rank)
    judged = [judge.judged(replace(case, shard=rank), data) for rank in ranks]
    whole = moe(data.weights, data.config, data.hidden_states, data.routing)
    return Group(
        case=case,
        data=data,
        ranks=ranks,
        partials=torch.stack([j.truth["combine"] for j in judged]),
        allowed=torch.stack([j.allowed["combine"] for j in judged]),
        whole=whole["combine"],
    )


def rank_outputs(judge: Judge, group: Group) -> list[torch.Tensor]:
    """`forward` of every rank, each on weights prepared for it."""
    judge.subject.need("forward")
    outputs = []
    for rank in group.ranks:
        data = group.data
        try:
            prepared = judge.subject.prepare(data.weights, data.config, rank)
            x = judge.inputs(group.case, data)
            out = judge.subject.forward(prepared, x.hidden_states, x.routing)
        except Failure as error:
            lines = [f"rank {rank.label()}: {error.text}"]
            raise judge.fail(
                error.verdict, lines, case=group.case, what="rank output"
            ) from error
        outputs.append(out.detach().cpu())
    return outputs


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
        lines += [ranks_line(group, outputs)]
        x = group.data.hidden_states.double().abs() + group.partials.abs().sum(dim=0)
        rounding = len(outputs) * half_ulp(x, judge.subject.arithmetic.output)
        lines += why_line(total, group.terms(rounding))
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
    for r, out in enumerate(rank_outputs(judge, group)):
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
            lines += [other_rank_line(judge, group, r, out)]
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


def ranks_line(group: Group, outputs: list[torch.Tensor]) -> str:
    """Which ranks are out of their own bound, each by itself."""
    bad = [
        rank.label()
        for rank, out, truth, allowed in zip(
            group.ranks, outputs, group.partials, group.allowed, strict=True
        )
        if not compare_numbers(out, truth, allowed).within
    ]
    count = f"{len(bad)} of {len(outputs)}"
    return f"out of their own bound: {count} ranks, {', '.join(bad)}"


def other_rank_line(judge: Judge, group: Group, r: int, out: torch.Tensor) -> str:
    """Whose part `out` is, if it is another rank's, or what its own behaves like."""
    for s, rank in enumerate(group.ranks):
        if s != r and compare_numbers(out, group.partials[s], group.allowed[s]).within:
            return f"why    behaves as if: it were rank {rank.label()}"
    if compare_numbers(out, group.whole, group.allowed.sum(dim=0)).within:
        return "why    behaves as if: it held the whole layer"
    own = replace(group.case, shard=group.ranks[r])
    judged = judge.judged(own, group.data)
    situation = situation_of(own, group.data)
    fits = causes(situation, judged, out, judge.subject.arithmetic)
    if fits:
        return f"why    behaves as if: {'; or '.join(map(str, fits[:_SHOWN]))}"
    return "why    it is no other rank's part"


def why_line(found: torch.Tensor, terms: Terms) -> list[str]:
    """The line ``why``, with every hypothesis that fits."""
    names = explain_ranks(found, terms)
    if names:
        return [f"why    behaves as if: {'; or '.join(names)}"]
    return ["why    no mixture of right parts gives this output"]


def routed_bias(data: CaseData) -> torch.Tensor:
    """[t, h]: sum_k p_k b2[e_k], the down bias as the whole layer adds it."""
    bias = data.weights.down_bias
    ids, p = data.routing.ids, data.routing.weights.double()
    if bias is None:
        return torch.zeros(len(ids), data.config.hidden, dtype=torch.float64)
    p = torch.where(ids >= 0, p, 0)
    return torch.einsum("tk,tkh->th", p, bias.double()[ids.clamp(min=0).long()])


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
    given = [out.to(judge.subject.device) for out in outputs]
    found = judge.subject.call("all_reduce", given)
    found = judge.subject.checked_output("all_reduce", found, outputs[0].shape)
    exact = torch.stack([out.double() for out in outputs])
    truth, magnitude = exact.sum(dim=0), exact.abs().sum(dim=0)
    rounding = reduce_rounding(magnitude, len(outputs), outputs[0].dtype)
    difference = compare_numbers(found, truth, rounding)
    judge.saw(difference.worst, stage="all_reduce")
    if difference.within:
        return
    lines = difference_lines(difference, group.data)
    if not judge.record.searching:
        share = (rounding / len(outputs)).expand_as(exact)
        terms = replace(group.terms(rounding), partials=exact, allowed=share)
        lines += why_line(found.detach().cpu(), terms)
    raise judge.fail(
        Verdict.NONFINITE if difference.nonfinite else Verdict.MISMATCH,
        lines,
        case=case,
        what=f"all_reduce of {len(outputs)} ranks",
        tensors={"found": found, "expected": truth, "allowed": rounding},
    )
