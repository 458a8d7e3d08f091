"""A group of ranks and what each gave, and a group that tells mistakes apart."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace

import torch

from mxmoe.conformance.bounds.compare_numbers import compare_numbers
from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.judging.group_outputs import Group
from mxmoe.conformance.judging.group_outputs import group_of
from mxmoe.conformance.judging.group_outputs import rank_outputs
from mxmoe.conformance.judging.group_outputs import worst_of_each
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.verdict import NotJudged
from mxmoe.conformance.why_numbers.causes import LARGEST_FIT
from mxmoe.conformance.why_numbers.causes import causes
from mxmoe.conformance.why_numbers.honest_size import likeliest
from mxmoe.conformance.why_numbers.hypotheses import fits_of_numbers
from mxmoe.conformance.why_numbers.hypotheses import too_large
from mxmoe.conformance.why_numbers.layer_steps import Situation
from mxmoe.conformance.why_numbers.layer_steps import situation_of
from mxmoe.conformance.why_numbers.moved import merged
from mxmoe.conformance.why_numbers.ranks.cuts import rank_cuts
from mxmoe.conformance.why_numbers.telling_case import lanes_with_a_rest

Tensor = torch.Tensor
# Experts, top_k, hidden, lanes of a rank; tokens: as of one rank's telling case.
_SHAPES = ((8, 4, 96, 96), (8, 4, 256, 256), (4, 2, 128, 256), (4, 2, 384, 256))
_TOKENS = 37
_LISTED = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """A group and what its ranks gave. outputs : [t, h] of each rank."""

    group: Group
    outputs: Sequence[Tensor]

    @property
    def wrong(self) -> list[int]:
        """The ranks that are out of their own bound, the worst first."""
        worst = worst_of_each(self.group, self.outputs)
        wrong = [r for r, size in enumerate(worst) if not size <= 1]
        return sorted(wrong, key=lambda r: -worst[r])

    def labels(self) -> str:
        """The wrong ranks, by name."""
        labels = [self.group.ranks[r].label() for r in sorted(self.wrong)]
        more = f" and {len(labels) - _LISTED} more" if len(labels) > _LISTED else ""
        return f"{', '.join(labels[:_LISTED])}{more}"

    def whose(self) -> str:
        """The wrong ranks, as whose the causes are."""
        wrong = len(self.wrong)
        if wrong == len(self.outputs):
            return "every rank"
        return f"rank{'s' * (wrong > 1)} {self.labels()}"

    def causes(self, judge: Judge, r: int) -> list[str]:
        """Sentences that are true of the output of one rank."""
        case = replace(self.group.case, shard=self.group.ranks[r])
        fits = causes(
            self._situation(r),
            judge.judged(case, self.group.data),
            self.outputs[r],
            judge.subject.arithmetic,
        )
        return merged([str(fit) for fit in fits])

    def _situation(self, r: int) -> Situation:
        case = replace(self.group.case, shard=self.group.ranks[r])
        return situation_of(case, self.group.data)

    def like_right_ranks(self, judge: Judge, names: Sequence[str]) -> list[str]:
        """Of `names`, those that change nothing on ranks that are right, if any are.

        The same mistake on all ranks is simpler than one of some ranks only.
        """
        kept, wrong = list(names), self.wrong
        right = [r for r in range(len(self.outputs)) if r not in wrong]
        for r in dict.fromkeys((*right[:1], *right[-1:])):
            s = self._situation(r)
            truth, allowed = self.group.partials[r], self.group.allowed[r]
            for name, cut in rank_cuts(s):
                if name in kept:
                    told, _ = cut(s).judged(judge.subject.arithmetic)
                    if not compare_numbers(told, truth, allowed).within:
                        kept.remove(name)
        return kept or list(names)

    def cuts(self, judge: Judge, r: int) -> list[str]:
        """As `causes`, of another part of the layer than the rank's own only."""
        s, arithmetic = self._situation(r), judge.subject.arithmetic
        if too_large(s.part, LARGEST_FIT):
            return []
        out = self.outputs[r].double()
        right = self.group.partials[r], self.group.allowed[r]
        fits = fits_of_numbers(out, s, arithmetic, right, rank_cuts(s))
        return [str(fit) for fit in likeliest(fits, out.numel())]


def told_group(judge: Judge, group: Group) -> Seen | None:
    """A group that tells mistakes apart, and what its ranks give; None if none can."""
    judge = judge.aside()
    for case in _cases(group):
        try:
            other = group_of(judge, case)
            return Seen(group=other, outputs=rank_outputs(judge, other))
        except NotJudged:
            continue
        # Whatever the calls raise, the failure is known without them.
        except Exception:
            return None
    return None


def _cases(group: Group) -> Iterator[Case]:
    shard = group.case.shard
    for experts, top_k, hidden, each in _SHAPES:
        for lanes in lanes_with_a_rest(each, shard):
            config = replace(
                group.data.config,
                experts=max(experts, shard.ep_size),
                top_k=top_k,
                hidden=hidden,
                intermediate=lanes,
            )
            yield Case(config=config, shard=shard, tokens=_TOKENS, hot=group.case.hot)
