"""A law that scales a quantity, and a candidate that stores it in a format.

The candidate itself is the oracle. If the second output is bit for bit what the law
says once the quantity is given to the *first* call as the format would hold it in the
second one, then that is what the second call did; and the other way round.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch

from mxmoe.conformance.cases.designed import CaseData
from mxmoe.conformance.laws.pairs import DOWN_BIAS
from mxmoe.conformance.laws.pairs import HIDDEN_STATES
from mxmoe.conformance.laws.pairs import ROUTING_WEIGHTS
from mxmoe.conformance.laws.pairs import Pair
from mxmoe.conformance.why_numbers.layer_steps import through
from mxmoe.conformance.why_numbers.otherwise.stores import cut_to_bfloat16
from mxmoe.conformance.why_numbers.pairs.called_again import Calls
from mxmoe.conformance.why_numbers.pairs.far_numbers import FORMATS
from mxmoe.conformance.why_numbers.pairs.far_numbers import flushed
from mxmoe.reference.types import Routing

Tensor = torch.Tensor
Store = Callable[[Tensor], Tensor]

# Fewer bits are made equal by anything.
_FEWEST = 8
# Powers of two from which on numbers may be stored otherwise.
_FROM = range(-4, 5)
# Each is a call; the smallest numbers first.
_POWERS = 24


def explain_stored(calls: Calls, pair: Pair, expected: Tensor, found: Tensor) -> str:
    """Which quantity is stored how in which of the calls, or "".

    expected, found : [n, h], what the law says, and what the second call gave.
    """
    if int((expected != found).sum()) < _FEWEST:
        return ""
    for name, factor in pair.scaled.items():
        given = _of(pair.before, name)
        if given is None:
            continue
        for words, store in _stores(given.double() * factor):
            stored = store(given.double() * factor) / factor
            other = _with(pair.before, name, stored)
            if _changes(given, stored) and torch.equal(
                pair.expect(calls.out(other)), found
            ):
                return f"{name} {words}, in the second call"
        for words, store in _stores(given.double()):
            stored = store(given.double())
            other = _with(pair.after, name, stored * factor)
            if _changes(given, stored) and torch.equal(
                calls.out(other)[pair.rows], expected
            ):
                return f"{name} {words}, in the first call"
    return ""


def _changes(given: Tensor, stored: Tensor) -> bool:
    return not torch.equal(given.double(), stored)


def _stores(values: Tensor) -> Iterator[tuple[str, Store]]:
    stores: dict[str, Store] = {
        "rounded to bfloat16": partial(through, dtype=torch.bfloat16),
        "cut to bfloat16": cut_to_bfloat16,
        **FORMATS,
    }
    yield from stores.items()
    for power in _FROM:
        above = values.abs() > 2.0**power
        if above.any() and not above.all():
            for words, store in stores.items():
                yield f"above 2^{power} {words}", partial(_above, power, store)
    sizes = values.abs()[values != 0].log2().ceil().int().unique().tolist()
    for power in sizes[:_POWERS]:
        yield f"below 2^{power} taken as 0", partial(flushed, smallest=2.0**power)


def _above(power: int, store: Store, x: Tensor) -> Tensor:
    return torch.where(x.abs() > 2.0**power, store(x), x)


def _of(data: CaseData, name: str) -> Tensor | None:
    return {
        HIDDEN_STATES: data.hidden_states,
        ROUTING_WEIGHTS: data.routing.weights,
        DOWN_BIAS: data.weights.down_bias,
    }[name]


def _with(data: CaseData, name: str, values: Tensor) -> CaseData:
    if name == HIDDEN_STATES:
        return replace(data, hidden_states=values.to(data.hidden_states.dtype))
    if name == ROUTING_WEIGHTS:
        weights = values.to(data.routing.weights.dtype)
        return replace(data, routing=Routing(data.routing.ids, weights))
    assert data.weights.down_bias is not None
    bias = values.to(data.weights.down_bias.dtype)
    return replace(data, weights=replace(data.weights, down_bias=bias))
