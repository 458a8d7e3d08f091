"""Why the ranks' sum is not the one rank's output: whose output is wrong, and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from mxmoe.conformance.bounds import Judged
from mxmoe.conformance.bounds import half_ulp
from mxmoe.conformance.judge import Judge
from mxmoe.conformance.judge_ranks import Group
from mxmoe.conformance.judge_ranks import ranks_line
from mxmoe.conformance.why_numbers.ranks_sum import explain_ranks
from mxmoe.conformance.why_numbers.two_outputs import Side
from mxmoe.conformance.why_numbers.two_outputs import causes_of
from mxmoe.reference.types import WHOLE

Tensor = torch.Tensor
_SHOWN = 4
# A cause that is the same on each of so many ranks is that of all.
_RANKS = 2


def why_ranks(
    judge: Judge,
    group: Group,
    whole: Tensor,
    alone: Judged,
    outputs: Sequence[Tensor],
) -> list[str]:
    """Lines that say who is out of bound, and the one that begins ``why``.

    whole : the output [t, h] of one rank alone, and `alone` its truth and bound.
    outputs : of each rank.
    """
    arithmetic = judge.subject.arithmetic
    case = replace(group.case, shard=WHOLE)
    one = Side(words="one", case=case, data=group.data, judged=alone, out=whole)
    sides = _ranks(judge, group, outputs)
    wrong = [side for side in sides if not side.worst <= 1]
    lines = [ranks_line(group, list(outputs))] if wrong else []
    if not one.worst <= 1:
        named = causes_of(one, arithmetic)
        lines.append(_line("the one rank alone", named))
    if wrong:
        x = group.data.hidden_states.double().abs() + group.partials.abs().sum(dim=0)
        rounding = len(outputs) * half_ulp(x, arithmetic.output)
        total = torch.stack([out.double() for out in outputs]).sum(dim=0)
        named = explain_ranks(total, group.terms(rounding))
        if named:
            return [*lines, _line("the sum", named)]
        lines.append(_line(*_of_ranks(judge, wrong, len(sides))))
    return lines


def _ranks(judge: Judge, group: Group, outputs: Sequence[Tensor]) -> list[Side]:
    sides = []
    for rank, out in zip(group.ranks, outputs, strict=True):
        case = replace(group.case, shard=rank)
        judged = judge.judged(case, group.data)
        sides.append(
            Side(words=rank.label(), case=case, data=group.data, judged=judged, out=out)
        )
    return sides


def _of_ranks(judge: Judge, wrong: Sequence[Side], count: int) -> tuple[str, list[str]]:
    """(whose, what is true of the output of each of the worst ranks)."""
    worst = sorted(wrong, key=lambda side: -side.worst)[:_RANKS]
    first, *others = (causes_of(side, judge.subject.arithmetic) for side in worst)
    same = [name for name in first if all(name in other for other in others)]
    if same and len(wrong) == count:
        return "every rank", same
    if same:
        plural = "s" * (len(wrong) > 1)
        return f"rank{plural} {', '.join(s.words for s in wrong)}", same
    return f"rank {worst[0].words}", first


def _line(whose: str, names: Sequence[str]) -> str:
    if not names:
        return f"why    {whose} is wrong; none of the known hypotheses gives its output"
    return f"why    behaves as if: {'; or '.join(names[:_SHOWN])} ({whose})"
