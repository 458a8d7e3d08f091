"""Why a law is broken: what of the two outputs is wrong, or what they depend on.

An output that is out of its own bound has a cause like any other wrong output. If both
are within, only their bits tell: the candidate is called again, with a part of what the
law changes, with quantities as a format would hold them, with copies of one token.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch

from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.laws.pairs import Pair
from mxmoe.conformance.laws.pairs import Question
from mxmoe.conformance.why_numbers.pairs.called_again import Calls
from mxmoe.conformance.why_numbers.pairs.standing import explain_standing
from mxmoe.conformance.why_numbers.pairs.stored_in_one_call import explain_stored
from mxmoe.conformance.why_numbers.pairs.two_outputs import Side
from mxmoe.conformance.why_numbers.pairs.two_outputs import explain_sides
from mxmoe.conformance.why_numbers.pairs.two_outputs import relation

Tensor = torch.Tensor
_SHOWN = 4
# Exponents, once a law is broken, after which its bound is looked at again.
_EVERY = 4


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
    calls = Calls(judge, case)
    asked, telling = list[str](), list[Side]()
    # A candidate may die of these calls; the failure is known without them.
    with contextlib.suppress(Exception):
        if not calls.repeats(pair.before, broken.before):
            return ["why    the same call gives other bits again, so no law holds"]
        for question in pair.questions() if broken.exact else ():
            line, side = _answer(calls, question)
            asked += line
            telling += side[: 1 - len(telling)]
    sides = [
        calls.side("the first output", pair.before, broken.before),
        calls.side("the second output", pair.after, broken.after),
    ]
    lines = explain_sides(sides, arithmetic, telling)
    if broken.exact:
        with contextlib.suppress(Exception):
            lines += _stored(calls, broken) if not lines else []
            lines += _standing(calls, broken)
        if not any("behaves as if" in line for line in lines):
            names = relation(broken.expected, broken.found, arithmetic.output)
            words = "why    the second output is what the first one says, "
            lines += [words + "; or ".join(names)] if names else []
    lines += asked
    if not lines:
        return ["why    both outputs are within their own bounds: other roundings"]
    return lines


def _stored(calls: Calls, broken: Broken) -> list[str]:
    words = explain_stored(calls, broken.pair, broken.expected, broken.found)
    return [f"why    behaves as if: {words}"] if words else []


def _standing(calls: Calls, broken: Broken) -> list[str]:
    if not broken.pair.placed:
        return []
    most = len(broken.pair.before.hidden_states)
    words = explain_standing(calls, broken.pair.after, broken.row, most)
    return [f"why    {words}"]


def _answer(calls: Calls, question: Question) -> tuple[list[str], list[Side]]:
    """(the sentence with the pairs that are broken, an output that is out of bound).

    Pairs are broken bit for bit. Of those that change more and more, the first one that
    is broken is said; and one of the next that is out of its own bound.
    """
    names, asked = list[str](), 0
    for name, pair in question.pairs:
        asked += 1
        if question.first and names and asked % _EVERY:
            continue
        after = calls.out(pair.after)
        if _same(pair.expect(calls.out(pair.before)), after[pair.rows]):
            continue
        names.append(name)
        if question.first:
            side = calls.side(name, pair.after, after)
            if side.worst > 1:
                return [f"why    {question.says.format(names[0])}"], [side]
    if not names:
        return [], []
    shown = ", ".join(names[: 1 if question.first else _SHOWN])
    if len(names) > _SHOWN and not question.first:
        every = len(names) == asked
        shown += " and every other one" if every else f" and {len(names) - _SHOWN} more"
    return [f"why    {question.says.format(shown)}"], []


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.nan_to_num(), other.nan_to_num())
