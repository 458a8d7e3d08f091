"""Why the outputs of a group's ranks are wrong: whose, and how.

Asked first is whether each rank gives a mixture of right parts (`each`), then
whether all cut their part of the layer otherwise (`cuts`), here and on a telling
case of the same group. If not, the output of the worst rank is explained as the plain
output check explains it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from mxmoe.conformance.bounds.compare_numbers import compare_numbers
from mxmoe.conformance.bounds.propagated import Judged
from mxmoe.conformance.judging.group_outputs import Group
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.judging.numbers import explained_output
from mxmoe.conformance.why_numbers.moved import alternatives
from mxmoe.conformance.why_numbers.ranks.each import explain_each
from mxmoe.conformance.why_numbers.ranks.seen import Seen
from mxmoe.conformance.why_numbers.ranks.seen import told_group
from mxmoe.conformance.why_numbers.why_lines import names_cause
from mxmoe.reference.types import WHOLE

Tensor = torch.Tensor
# A cause of so many ranks may be that of all.
_RANKS = 2
_BEHAVES = "why    behaves as if: "
_SHOWN = 4
# Outputs of as many elements tell causes apart by themselves.
_RICH = 1024


def why_each(judge: Judge, group: Group, outputs: Sequence[Tensor]) -> list[str]:
    """Which ranks are out of their own bound, and lines that say why; [] if none is.

    outputs : [t, h] of each rank.
    """
    here = Seen(group=group, outputs=outputs)
    if not here.wrong:
        return []
    count = f"{len(here.wrong)} of {len(outputs)} ranks"
    lines = [f"out of their own bound: {count}, {here.labels()}"]
    told = told_group(judge, group) if judge.record.telling else None
    there = told if told is not None and told.wrong else None
    dtype = judge.subject.arithmetic.output
    ours = explain_each(outputs, group.parts(dtype))
    if there is not None:
        theirs = explain_each(there.outputs, there.group.parts(dtype))
        if said := _agreed(ours, theirs, there):
            return [*lines, said]
    elif ours:
        return [*lines, _line(ours)]
    if said := _cut(judge, here, there):
        return [*lines, said]
    why = _of_worst(judge, here, there)
    # Refuted by the telling case, so that it is said where nothing else is.
    rich = sum(out.numel() for out in outputs) >= _RICH
    if ours and rich and not names_cause(why):
        return [*lines, _line(ours)]
    return lines + why


def _line(names: Sequence[str], note: str = "") -> str:
    return f"{_BEHAVES}{alternatives(list(names), _SHOWN)}{note}"


def _agreed(ours: list[str], theirs: list[str], there: Seen) -> str:
    """The line of what is true of both groups, or of the telling one; or ""."""
    if same := [name for name in ours if name in theirs]:
        return _line(same)
    return _line(theirs, f" (in case {there.group.case})") if theirs else ""


def _cut(judge: Judge, here: Seen, there: Seen | None) -> str:
    """The line of another cut that is true of all wrong ranks; or ""."""
    if there is None:
        ours = _cuts_of_all(judge, here, _RANKS)
        return _line(ours, f" ({here.whose()})") if ours else ""
    # Of a rank that is right there nothing more can be learnt.
    others = not set(here.wrong) & set(there.wrong)
    theirs = _cuts_of_all(judge, there, 1 if others else _RANKS)
    ours = _cuts_of_all(judge, here, _RANKS) if theirs else []
    if same := [name for name in ours if name in theirs]:
        return _line(same, f" ({here.whose()})")
    note = f" (in case {there.group.case}) ({there.whose()})"
    return _line(theirs, note) if theirs else ""


def _cuts_of_all(judge: Judge, seen: Seen, fewest: int) -> list[str]:
    """Sentences that are true of the first, a middle and the last of the wrong ranks.

    fewest : fewer wrong ranks are not asked: their causes are not their parts only.
    """
    wrong = sorted(seen.wrong)
    if len(wrong) < fewest:
        return []
    first, *others = dict.fromkeys((wrong[0], wrong[-1], wrong[len(wrong) // 2]))
    names = seen.cuts(judge, first)
    for r in others:
        theirs = seen.cuts(judge, r) if names else []
        names = [name for name in names if name in theirs]
    return seen.like_right_ranks(judge, names)


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


def _of_worst(judge: Judge, here: Seen, there: Seen | None) -> list[str]:
    """What is true of the worst rank, and whether of the others, too."""
    group, first = here.group, here.wrong[0]
    case = replace(group.case, shard=group.ranks[first])
    out = here.outputs[first]
    difference = compare_numbers(out, group.partials[first], group.allowed[first])
    said = explained_output(judge, case, group.data, out, difference)
    whose = f"rank {group.ranks[first].label()}"
    names, note = _named(said)
    if len(here.wrong) >= _RANKS and (same := _of_next(judge, here, there, names)):
        whose, names, note = here.whose(), same, ""
    if names:
        names = (there or here).like_right_ranks(judge, names)
    line = _line(names, note)
    said = [line if one.startswith(_BEHAVES) else one for one in said]
    return _said_of(said, whose)


def _named(said: Sequence[str]) -> tuple[list[str], str]:
    """(the causes that a line of `said` names, what it remarks behind them)."""
    line = next((line for line in said if line.startswith(_BEHAVES)), "")
    causes, where, case = line.removeprefix(_BEHAVES).partition(" (in case")
    return causes.split("; or ") if line else [], f"{where}{case}"


def _of_next(
    judge: Judge, here: Seen, there: Seen | None, names: Sequence[str]
) -> list[str]:
    """Those of `names` that are true of the next worst rank, too."""
    for seen in (here, there) if names else ():
        other = next((r for r in here.wrong[1:] if seen and r in seen.wrong), None)
        if seen is not None and other is not None:
            theirs = seen.causes(judge, other)
            if same := [name for name in names if name in theirs]:
                return same
    return []


def _said_of(lines: Sequence[str], whose: str) -> list[str]:
    """The lines of an explained output, with whose it is."""
    return [f"{line} ({whose})" if line.startswith("why ") else line for line in lines]
