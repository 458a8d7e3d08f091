"""Why a law is broken: what of the two outputs is wrong, or what they depend on.

If an output is out of its own bound, it has a cause like any other wrong output. If both
are within, only their bits tell: the candidate is called again, with a part of what the
law changes, with quantities as a format would hold them, with copies of one token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mxmoe.conformance.case import Case
from mxmoe.conformance.judge import Judge
from mxmoe.conformance.law_pairs import Pair
from mxmoe.conformance.law_pairs import Question
from mxmoe.conformance.why_numbers.called_again import Calls
from mxmoe.conformance.why_numbers.standing import explain_standing
from mxmoe.conformance.why_numbers.stored_in_one_call import explain_stored
from mxmoe.conformance.why_numbers.two_outputs import Side
from mxmoe.conformance.why_numbers.two_outputs import explain_sides
from mxmoe.conformance.why_numbers.two_outputs import relation

Tensor = torch.Tensor
_SHOWN = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Broken:
    """A law that does not hold. before, after : [t, h], the two outputs.

    exact : whether bits were compared. row : of the second output, the worst one.
    """

    pair: Pair
    before: Tensor
    after: Tensor
    exact: bool
    row: int

    @property
    def expected(self) -> Tensor:
        """What the first output says about the rows of the second."""
        return self.pair.expect(self.before)

    @property
    def found(self) -> Tensor:
        """The rows of the second output that the law speaks of."""
        return self.after[self.pair.rows]


def why_law(judge: Judge, case: Case, broken: Broken) -> list[str]:
    """Lines that begin ``why``; whatever the calls do, it explains and never raises."""
    pair, arithmetic = broken.pair, judge.subject.arithmetic
    sides = [
        Side(
            words=f"the {words} output",
            case=case,
            data=data,
            judged=judge.judged(case, data),
            out=out,
        )
        for words, data, out in (
            ("first", pair.before, broken.before),
            ("second", pair.after, broken.after),
        )
    ]
    lines = explain_sides(sides, arithmetic)
    try:
        lines += _called(Calls(judge, case), broken, bool(lines))
    # A candidate may die of these calls; the failure is known without them.
    except Exception:
        pass
    if broken.exact and not lines:
        lines = [f"why    {words}" for words in _related(broken, judge)]
    if not lines:
        lines = [
            "why    both outputs are within their own bounds: they are rounded otherwise"
        ]
    return lines


def _related(broken: Broken, judge: Judge) -> list[str]:
    names = relation(broken.expected, broken.found, judge.subject.arithmetic.output)
    return [f"the second output is what the first one says, {n}" for n in names]


def _called(calls: Calls, broken: Broken, known: bool) -> list[str]:
    """What calls of the candidate say. known : an output is out of its own bound."""
    pair = broken.pair
    first, second = calls.out(pair.before), calls.out(pair.after)
    if not (_same(first, broken.before) and _same(second, broken.after)):
        return ["why    the same call gives other bits again, so no law holds"]
    lines = list[str]()
    if broken.exact and not known:
        stored = explain_stored(calls, pair, broken.expected, broken.found)
        lines += [f"why    behaves as if: {stored}"] if stored else []
    for question in pair.questions() if broken.exact else ():
        lines += _answer(calls, question)
    if broken.exact and pair.placed and not known:
        most = len(pair.before.hidden_states)
        words = explain_standing(calls, pair.after, broken.row, most)
        lines.append(f"why    {words}")
        lines += [f"why    {words}" for words in _related(broken, calls.judge)]
    return lines


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.nan_to_num(), other.nan_to_num())


def _answer(calls: Calls, question: Question) -> list[str]:
    """The sentence with the names of the pairs that are broken, bit for bit."""
    names, asked = list[str](), 0
    for name, pair in question.pairs:
        asked += 1
        expected = pair.expect(calls.out(pair.before))
        if not _same(expected, calls.out(pair.after)[pair.rows]):
            names.append(name)
            if question.first:
                break
    if not names:
        return []
    shown = ", ".join(names[:_SHOWN])
    if len(names) > _SHOWN:
        every = len(names) == asked
        shown += " and each other" if every else f" and {len(names) - _SHOWN} more"
    return [f"why    {question.says.format(shown)}"]
