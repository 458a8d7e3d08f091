"""Why a later call is wrong: something that an earlier call was given, or gave.

The output is held against what the layer gives if a part of the input is that of an
earlier call: hidden states, expert ids, routing weights, the weights of the layer. An
earlier call with fewer tokens may have left its rows in front.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace

import torch

from mxmoe.conformance.bounds.compare_numbers import compare_numbers
from mxmoe.conformance.bounds.propagated import half_ulp
from mxmoe.conformance.cases.designed import CaseData
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.why_numbers.causes import causes
from mxmoe.conformance.why_numbers.layer_steps import situation_of
from mxmoe.conformance.why_numbers.pairs.two_outputs import Side
from mxmoe.conformance.why_numbers.pairs.two_outputs import causes_of
from mxmoe.reference.types import Routing

Tensor = torch.Tensor
_SHOWN = 4


@dataclass(frozen=True, eq=False)
class Former:
    """An earlier call, or only a layer that was prepared: `words` name it.

    out : [t, h], what the candidate gave; None for a layer.
    """

    words: str
    data: CaseData
    out: Tensor | None = None


def why_state(judge: Judge, side: Side, calls: Sequence[Former]) -> list[str]:
    """The line that begins ``why`` of an output that is out of its bound."""
    arithmetic = judge.subject.arithmetic
    names = [
        *(_stayed(judge, side, calls) if side.out.isfinite().all() else ()),
        *(_input_of(judge, side, calls)),
    ]
    if not names:
        names = causes_of(side, arithmetic)
    if not names:
        return ["why    nothing of earlier calls, and no known hypothesis, gives it"]
    return [f"why    behaves as if: {'; or '.join(names[:_SHOWN])}"]


def _stayed(judge: Judge, side: Side, calls: Sequence[Former]) -> Iterator[str]:
    """The output of an earlier call of this size stays, or is added to."""
    arithmetic = judge.subject.arithmetic
    for former in calls:
        if former.out is None or former.out.shape != side.out.shape:
            continue
        gave = former.out.detach().cpu().double()
        should = judge.judged(side.case, former.data).truth["combine"]
        fits = causes(
            situation_of(side.case, side.data),
            side.judged,
            side.out,
            arithmetic,
            former=(gave, should),
            only={"output"},
        )
        for fit in fits:
            if "former call" in str(fit):
                yield str(fit).replace("the former call", former.words)


def _input_of(judge: Judge, side: Side, calls: Sequence[Former]) -> Iterator[str]:
    """A part of the input is that of an earlier call; the smallest parts."""
    dtype = judge.subject.arithmetic.output
    for former in calls:
        found = list[frozenset[str]]()
        for parts in _choices(former):
            if any(smaller <= parts for smaller in found):
                continue
            data = _mixed(side.data, former.data, parts)
            if data is None:
                continue
            judged = judge.judged(side.case, data)
            truth, allowed = judged.truth["combine"], judged.allowed["combine"]
            room = allowed + half_ulp(truth, dtype)
            if compare_numbers(side.out, truth, room).within:
                found.append(parts)
                rows = len(former.data.hidden_states)
                few = rows < len(side.data.hidden_states) and parts != {_WEIGHTS}
                where = f", in the first {rows} row{'s' * (rows > 1)}" if few else ""
                named = " and ".join(p for p in _PARTS if p in parts)
                yield f"{named} of {former.words}{where}"


_STATES, _IDS, _SCALES, _WEIGHTS = _PARTS = (
    "hidden states",
    "expert ids",
    "routing weights",
    "weights",
)


def _choices(former: Former) -> Iterator[frozenset[str]]:
    parts = _PARTS[:3] if former.out is not None else _PARTS[3:]
    for count in range(1, len(parts) + 1):
        yield from map(frozenset, itertools.combinations(parts, count))


def _mixed(own: CaseData, other: CaseData, parts: frozenset[str]) -> CaseData | None:
    """`own` with `parts` of `other` in the rows that both have; None if it is equal."""
    rows = min(len(own.hidden_states), len(other.hidden_states))

    def first(name: str, mine: Tensor, theirs: Tensor) -> Tensor:
        if name not in parts:
            return mine
        return torch.cat((theirs[:rows], mine[rows:]))

    hidden = first(_STATES, own.hidden_states, other.hidden_states)
    ids = first(_IDS, own.routing.ids, other.routing.ids)
    weights = first(_SCALES, own.routing.weights, other.routing.weights)
    layer = other.weights if _WEIGHTS in parts else own.weights
    same = layer is own.weights and all(
        torch.equal(a, b)
        for a, b in (
            (hidden, own.hidden_states),
            (ids, own.routing.ids),
            (weights, own.routing.weights),
        )
    )
    if same:
        return None
    return replace(
        own, hidden_states=hidden, routing=Routing(ids, weights), weights=layer
    )
