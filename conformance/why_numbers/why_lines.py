"""The line that says why an output is out of bound.

What fits the failing case is held against a telling case (`telling_case`): a sentence
that is true of both is said first.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from mxmoe.conformance.bounds.propagated import Judged
from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.designed import CaseData
from mxmoe.conformance.why_numbers.causes import CHEAP
from mxmoe.conformance.why_numbers.causes import NONFINITE
from mxmoe.conformance.why_numbers.causes import causes
from mxmoe.conformance.why_numbers.hypotheses import too_large
from mxmoe.conformance.why_numbers.layer_steps import Fit
from mxmoe.conformance.why_numbers.layer_steps import Situation
from mxmoe.conformance.why_numbers.layer_steps import situation_of
from mxmoe.conformance.why_numbers.moved import alternatives
from mxmoe.conformance.why_numbers.moved import merged
from mxmoe.conformance.why_numbers.otherwise.rounded_twice import rounded_twice
from mxmoe.conformance.why_numbers.slots.slot_sources import last_tokens
from mxmoe.conformance.why_numbers.slots.slot_sources import sets_of_tokens
from mxmoe.conformance.why_numbers.slots.slots_left_out import only_listed
from mxmoe.conformance.why_numbers.telling_case import Told
from mxmoe.reference.types import Arithmetic

_BEHAVES = "why    behaves as if:"

# Outputs of more elements than that tell causes apart by themselves, if more than one
# token is wrong.
_RICH = 1024

# Searches whose sentences name tokens and columns, which every case has others of.
_OF_PLACES = {"output", "rows"}

_LEFT_OUT = "left out"

# What another case has others of, so that the same place has other numbers there.
_COUNTED = ("token", "column", "row", "lane", "position", "tile", "K block")

# More sets of tokens that are alike do not tell.
_SETS = 3

# Below this error / bound a missing or wrong term is less likely than a rounding.
_CLOSE = 4.0


def why_lines(
    case: Case,
    data: CaseData,
    judged: Judged,
    out: torch.Tensor,
    arithmetic: Arithmetic,
    worst: float,
    tell: Callable[[], Told | None] = lambda: None,
    count: Callable[[], Told | None] = lambda: None,
    kept: Callable[[Told | None], list[str]] = lambda told: [],
) -> list[str]:
    """The line that begins ``why``: what `out` [t, h] behaves like.

    worst : the largest error / allowed. tell : runs the candidate on a telling case.
    count : on one with telling numbers of rows, where no rule is true of all slots that
    are left out. kept : asks it which parts of its input it does not follow, there
    as well.
    """
    told = tell()
    situation = situation_of(case, data)
    there = [] if told is None else causes_there(told, arithmetic)
    only = {fit.family for fit in there}
    if told is not None and not there and told.wrong:
        # What explains neither case is not looked for twice.
        only = CHEAP
    rich = out.numel() >= _RICH and _wrong_tokens(judged, out) > 1
    here = causes(situation, judged, out, arithmetic, only=only)
    if there and rich and not here:
        here = causes(situation, judged, out, arithmetic, only=CHEAP)
    if _no_rule(here, there) and (counted := count()) is not None:
        by_rule = causes_there(counted, arithmetic)
        if by_rule and not only_listed(by_rule):
            told, there = counted, by_rule
            here = [fit for fit in here if str(fit) in map(str, there)]
    names, note = _agreed(here, there, told, rich=rich, one_token=len(out) == 1)
    if names:
        return [f"{_BEHAVES} {alternatives(merged(names))}{note}"]
    truth, allowed = judged.truth["combine"], judged.allowed["combine"]
    if twice := rounded_twice(out, truth, allowed, arithmetic.output):
        return [f"{_BEHAVES} {twice[0]}"]
    looked = [(situation, judged, out)]
    if told is not None:
        looked.insert(0, (situation_of(told.case, told.data), told.judged, told.out))
    for where in looked if worst >= _CLOSE else ():
        if words := _wrong_rows(*where):
            return [f"why    {words} not computed, not written, or from elsewhere"]
    if too_large(situation.part):
        return ["why    not searched: there are too many weights for it"]
    if known := kept(told):
        return [f"why    {known[0]}"]
    if worst < _CLOSE:
        return [
            "why    close to the bound: a rounding that class "
            f"{arithmetic.name} does not have? A trace shows the stage"
        ]
    return ["why    none of the known hypotheses gives this output"]


def causes_there(told: Told, arithmetic: Arithmetic) -> list[Fit]:
    """Sentences that are true of the whole output of a telling case."""
    return causes(
        situation_of(told.case, told.data),
        told.judged,
        told.out,
        arithmetic,
        former=told.former,
        before=told.before,
    )


def names_cause(lines: list[str]) -> bool:
    """Whether what `why_lines` says is a cause."""
    return any(line.startswith(_BEHAVES) for line in lines)


def _no_rule(here: list[Fit], there: list[Fit]) -> bool:
    """Whether slots are left out, and no single rule is true of both cases."""
    if only_listed(there):
        return True
    lost = all(fit.family == _LEFT_OUT for fit in (*here, *there))
    same = {str(fit) for fit in here} & {str(fit) for fit in there}
    return bool(here and there) and lost and len(same) != 1


def _counted(fit: Fit) -> frozenset[str]:
    """What the place of a sentence numbers."""
    return frozenset(what for what in _COUNTED if what in fit.place)


def _wrong_tokens(judged: Judged, out: torch.Tensor) -> int:
    truth, allowed = judged.truth["combine"], judged.allowed["combine"]
    found = out.detach().cpu().double().reshape(truth.shape)
    return int((~((found - truth).abs() <= allowed)).any(dim=1).sum())


def _wrong_rows(situation: Situation, judged: Judged, out: torch.Tensor) -> str:
    """What exactly the wrong tokens have in common, whatever they hold; or ""."""
    truth, allowed = judged.truth["combine"], judged.allowed["combine"]
    found = out.detach().cpu().double().reshape(truth.shape)
    bad = ~((found - truth).abs() <= allowed)
    owned = situation.shard.expert_range(situation.config)
    ids = situation.routing.ids
    served = (ids >= owned.start) & (ids < owned.stop)
    if int(bad.sum()) == 1 and bad.numel() >= _RICH:
        token, column = bad.nonzero()[0].tolist()
        where = f"column {column} of token {token}"
        where = "the last column of the last token" if bad[-1, -1] else where
        return f"wrong is one element only, {where}:"
    tokens = bad.any(dim=1)
    if sets := list(sets_of_tokens(ids, tokens, served)):
        return f"wrong are exactly the tokens in {'; or '.join(sets[:_SETS])}:"
    if last := list(last_tokens(ids, tokens, served)):
        words = f"wrong is one token only, {' and '.join(last)}"
        return f"{words}: written over by rows of padding,"
    return ""


def _agreed(
    here: list[Fit], there: list[Fit], told: Told | None, *, rich: bool, one_token: bool
) -> tuple[list[str], str]:
    """(what is said, a remark on where it is so)."""
    ours, theirs = (list(map(str, fits)) for fits in (here, there))
    if told is None:
        return ours, ""
    same = [name for name in ours if name in theirs]
    # Other tokens and columns in the other case, but the same experts and slots.
    alike = {(fit.name, _counted(fit)) for fit in there}
    there_too = [
        str(fit) for fit in here if _counted(fit) and (fit.name, _counted(fit)) in alike
    ]
    if same or there_too:
        return same or there_too, ""
    # With one expert, rows of an expert are tokens: of several places there the one of
    # the telling case is it.
    elsewhere = {fit.name for fit in there if _counted(fit)}
    if any(fit.name in elsewhere for fit in here if _counted(fit)):
        return theirs, f" (in case {told.case}{told.how})"
    if only_listed(here) and theirs and not only_listed(there):
        return theirs, f" (in case {told.case}{told.how})"
    seen = {fit.family for fit in here} <= _OF_PLACES
    if ours and seen and not told.wrong:
        return ours, f" (case {told.case} is right)"
    if ours and seen and not theirs and one_token:
        return [], ""
    if NONFINITE in {fit.family for fit in there}:
        return theirs, f" (in case {told.case}{told.how})"
    places = {fit.family for fit in (*here, *there)} <= _OF_PLACES
    # Of the failing case nobody knows the former call.
    former = any("former" in name for name in theirs)
    if theirs and one_token and places:
        # Of one token, which is every one, the place does not show.
        return theirs, f" (in case {told.case}{told.how})"
    if ours and places and not former:
        return ours, ""
    if theirs and (former or not (ours and rich)):
        return theirs, f" (in case {told.case}{told.how})"
    if told.wrong and not rich:
        # Refuted there: few numbers are like those of many faults.
        return [], ""
    return ours, ""
