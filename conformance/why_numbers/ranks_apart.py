"""Why the outputs of a group's ranks are wrong: whose, and how.

Asked first is whether each rank gives a mixture of right parts (`ranks_each`), here and
on a telling case of the same group. If none does, the output of the worst rank is
explained as the plain output check explains it.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import replace

import torch

from mxmoe.conformance.bounds import Judged
from mxmoe.conformance.case import Case
from mxmoe.conformance.compare_numbers import compare_numbers
from mxmoe.conformance.group_outputs import Group
from mxmoe.conformance.group_outputs import group_of
from mxmoe.conformance.group_outputs import rank_outputs
from mxmoe.conformance.group_outputs import worst_of_each
from mxmoe.conformance.judge import Judge
from mxmoe.conformance.judge_numbers import explained_output
from mxmoe.conformance.verdict import NotJudged
from mxmoe.conformance.why_numbers.causes import causes
from mxmoe.conformance.why_numbers.layer_steps import situation_of
from mxmoe.conformance.why_numbers.moved import merged
from mxmoe.conformance.why_numbers.ranks_each import explain_each
from mxmoe.conformance.why_numbers.telling_case import aside
from mxmoe.conformance.why_numbers.telling_case import lanes_with_a_rest
from mxmoe.reference.types import WHOLE

Tensor = torch.Tensor
_BEHAVES = "why    behaves as if: "
_SHOWN = 4
# Outputs of as many elements tell causes apart by themselves.
_RICH = 1024
# Experts, top_k, hidden, lanes of a rank; tokens: as of one rank's telling case.
_SHAPES = ((8, 4, 96, 96), (8, 4, 256, 256), (4, 2, 128, 256), (4, 2, 384, 256))
_TOKENS = 37
_LISTED = 8


def why_each(judge: Judge, group: Group, outputs: Sequence[Tensor]) -> list[str]:
    """Which ranks are out of their own bound, and lines that say why; [] if none is.

    outputs : [t, h] of each rank.
    """
    worst = worst_of_each(group, outputs)
    wrong = [r for r, size in enumerate(worst) if not size <= 1]
    if not wrong:
        return []
    lines = [ranks_line(group, outputs)]
    names, note = _mixtures(judge, group, outputs)
    if names:
        more = f"; or {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        said = f"{'; or '.join(names[:_SHOWN])}{more}{note}"
        return [*lines, f"{_BEHAVES}{said}"]
    return lines + _of_one(
        judge, group, outputs, sorted(wrong, key=lambda r: -worst[r])
    )


def why_apart(
    judge: Judge,
    group: Group,
    whole: Tensor,
    alone: Judged,
    outputs: Sequence[Tensor],
) -> list[str]:
    """Why the ranks do not add up to the output [t, h] of one rank alone.

    alone : truth and bound of that one.
    """
    lines = list[str]()
    truth, allowed = alone.truth["combine"], alone.allowed["combine"]
    difference = compare_numbers(whole, truth, allowed)
    if not difference.within:
        case = replace(group.case, shard=WHOLE)
        said = explained_output(judge, case, group.data, whole, difference)
        lines += _said_of(said, "the one rank alone")
    return lines + why_each(judge, group, outputs)


def ranks_line(group: Group, outputs: Sequence[Tensor]) -> str:
    """Which ranks are out of their own bound, each by itself."""
    worst = worst_of_each(group, outputs)
    bad = [
        r.label() for r, size in zip(group.ranks, worst, strict=True) if not size <= 1
    ]
    count = f"{len(bad)} of {len(outputs)}"
    more = f" and {len(bad) - _LISTED} more" if len(bad) > _LISTED else ""
    shown = ", ".join(bad[:_LISTED])
    return f"out of their own bound: {count} ranks, {shown}{more}"


def _mixtures(
    judge: Judge, group: Group, outputs: Sequence[Tensor]
) -> tuple[list[str], str]:
    """(mixtures of right parts that the ranks give, a remark on where it is so)."""
    dtype = judge.subject.arithmetic.output
    here = explain_each(outputs, group.parts(dtype))
    told = _told(judge, group) if judge.record.telling else None
    if told is None:
        return here, ""
    other, gave = told
    there = explain_each(gave, other.parts(dtype))
    if same := [name for name in here if name in there]:
        return same, ""
    if there:
        return there, f" (in case {other.case})"
    wrong = any(not size <= 1 for size in worst_of_each(other, gave))
    rich = sum(out.numel() for out in outputs) >= _RICH
    return (here, "") if rich or not wrong else ([], "")


def _told(judge: Judge, group: Group) -> tuple[Group, list[Tensor]] | None:
    """A group that tells mistakes apart, and what its ranks give; None if none can."""
    judge = aside(judge)
    for case in _cases(group):
        try:
            other = group_of(judge, case)
            return other, rank_outputs(judge, other)
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


def _of_one(
    judge: Judge, group: Group, outputs: Sequence[Tensor], wrong: Sequence[int]
) -> list[str]:
    """What is true of the worst rank, and of which others."""
    first = wrong[0]
    case = replace(group.case, shard=group.ranks[first])
    difference = compare_numbers(
        outputs[first], group.partials[first], group.allowed[first]
    )
    said = explained_output(judge, case, group.data, outputs[first], difference)
    whose = f"rank {group.ranks[first].label()}"
    for r in wrong[1:2]:
        if _true_of(judge, group, outputs[r], r, said):
            labels = [group.ranks[n].label() for n in sorted(wrong)]
            more = f" and {len(labels) - _LISTED} more" if len(labels) > _LISTED else ""
            whose = f"ranks {', '.join(labels[:_LISTED])}{more}"
            if len(wrong) == len(outputs):
                whose = "every rank"
    return _said_of(said, whose)


def _true_of(
    judge: Judge, group: Group, out: Tensor, r: int, said: Sequence[str]
) -> bool:
    """Whether a cause of `said` is one of the output of rank `r`, too."""
    line = next((line for line in said if line.startswith(_BEHAVES)), "")
    if not line:
        return False
    case = replace(group.case, shard=group.ranks[r])
    fits = causes(
        situation_of(case, group.data),
        judge.judged(case, group.data),
        out,
        judge.subject.arithmetic,
    )
    names = line.removeprefix(_BEHAVES).partition(" (in case")[0].split("; or ")
    return any(name in names for name in merged([str(fit) for fit in fits]))


def _said_of(lines: Sequence[str], whose: str) -> list[str]:
    """The lines of an explained output, with whose it is."""
    return [f"{line} ({whose})" if line.startswith("why ") else line for line in lines]
