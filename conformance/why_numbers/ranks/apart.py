"""Why the outputs of a group's ranks are wrong: whose, and how.

Asked first is whether each rank gives a mixture of right parts (`each`), then
whether all cut their part of the layer otherwise (`cuts`), here and on a telling
case of the same group. If not, the output of the worst rank is explained as the plain
output check explains it.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace

import torch

from mxmoe.conformance.bounds.compare_numbers import compare_numbers
from mxmoe.conformance.bounds.propagated import Judged
from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.judging.group_outputs import Group
from mxmoe.conformance.judging.group_outputs import group_of
from mxmoe.conformance.judging.group_outputs import rank_outputs
from mxmoe.conformance.judging.group_outputs import worst_of_each
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.judging.numbers import explained_output
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
from mxmoe.conformance.why_numbers.ranks.each import explain_each
from mxmoe.conformance.why_numbers.telling_case import lanes_with_a_rest
from mxmoe.conformance.why_numbers.why_lines import names_cause
from mxmoe.reference.types import WHOLE

Tensor = torch.Tensor
# A cause of so many ranks may be that of all.
_RANKS = 2
_BEHAVES = "why    behaves as if: "
_SHOWN = 4
# Outputs of as many elements tell causes apart by themselves.
_RICH = 1024
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
    more = f"; or {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{_BEHAVES}{'; or '.join(names[:_SHOWN])}{more}{note}"


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
