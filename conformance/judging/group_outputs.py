"""All ranks of a group: what each gives, and what each of them and their sum should."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace

import torch

from mxmoe.conformance.bounds.compare_numbers import compare_numbers
from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.designed import CaseData
from mxmoe.conformance.cases.rank_groups import ranks_of
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.verdict import Failure
from mxmoe.conformance.verdict import not_run
from mxmoe.conformance.why_numbers.ranks.each import Parts
from mxmoe.conformance.why_numbers.ranks.sum import Terms
from mxmoe.reference.moe import moe
from mxmoe.reference.types import Shard


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
            residual=self.data.hidden_states.double(),
            rounding=rounding,
            own=own,
        )

    def parts(self, dtype: torch.dtype) -> Parts:
        """What hypotheses about the output of each rank, of that dtype, may mix."""
        config = self.data.config
        biases = [routed_bias(self.data, r.expert_range(config)) for r in self.ranks]
        return Parts(
            ranks=self.ranks,
            partials=self.partials,
            allowed=self.allowed,
            biases=torch.stack(biases),
            residual=self.data.hidden_states.double(),
            lanes=tuple(len(r.intermediate_range(config)) for r in self.ranks),
            dtype=dtype,
        )


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


def worst_of_each(group: Group, outputs: Sequence[torch.Tensor]) -> list[float]:
    """The largest error / allowed of each rank; above 1 it is out of its own bound."""
    return [
        compare_numbers(out, truth, allowed).worst
        for out, truth, allowed in zip(
            outputs, group.partials, group.allowed, strict=True
        )
    ]


def routed_bias(data: CaseData, experts: range) -> torch.Tensor:
    """[t, h]: sum_k p_k b2[e_k] over slots of `experts`: the down bias, undivided."""
    bias = data.weights.down_bias
    ids, p = data.routing.ids, data.routing.weights.double()
    if bias is None:
        return torch.zeros(len(ids), data.config.hidden, dtype=torch.float64)
    p = torch.where((ids >= experts.start) & (ids < experts.stop), p, 0)
    return torch.einsum("tk,tkh->th", p, bias.double()[ids.clamp(min=0).long()])
