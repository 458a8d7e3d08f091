"""Why an output is wrong: rows of padding are written to a place that is taken.

The rows of each expert are filled up to whole tiles. Where the index of a row of
padding is clamped, not masked, the last place is written again, with what an expert
makes of token 0 (an index of 0), of hidden states of 0 (a masked load), or of anything.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from mxmoe.conformance.why_numbers.expert_content import RIGHT
from mxmoe.conformance.why_numbers.layer_steps import Fit
from mxmoe.conformance.why_numbers.otherwise.one_thing import Wrong
from mxmoe.conformance.why_numbers.slots.gathers import rest_of_error
from mxmoe.conformance.why_numbers.slots.slot_sources import last_slots

Tensor = torch.Tensor
_END = ": rows of padding are written there?"


def explain_padding(wrong: Wrong) -> list[Fit]:
    """What the last place holds, if no other token is wrong."""
    bad = wrong.bad.any(dim=1)
    if int(bad.sum()) != 1 or not wrong.found.isfinite().all():
        return []
    token, fits = int(bad.nonzero()[0, 0]), []
    values = list(_values(wrong))
    for place, slot in _places(wrong, token):
        for value, row in values:
            told = wrong.slots.clone()
            if slot is None:
                told[token] = 0
                told[token, 0] = row
            else:
                told[token, slot] = wrong.experts.weights[token, slot] * row
            left = rest_of_error(wrong, told, torch.ones_like(bad))
            if left is not None:
                fits.append(Fit(f"{place} is {value}{_END}", left))
    return fits


def _places(wrong: Wrong, token: int) -> Iterator[tuple[str, int | None]]:
    """(words, the slot of `token` that is the last, or None for its output)."""
    weights = wrong.experts.weights
    t, k = weights.shape
    if token == t - 1:
        yield "the last token's output", None
    ids = wrong.experts.situation.routing.ids
    for words, n in last_slots(ids, weights != 0):
        if n // k == token:
            yield f"the result of {words}", n % k


def _values(wrong: Wrong) -> Iterator[tuple[str, Tensor]]:
    """(words, a row [h] that padding may hold)."""
    experts = wrong.experts
    first = experts.situation.hidden_states[:1].double()
    one = torch.ones(1, 1, dtype=torch.float64)
    for local in range(experts.count):
        content, e = experts.content(local), experts.first + local
        for words, x in (("token 0", first), ("hidden states of 0", 0 * first)):
            row = experts.rows(content, RIGHT.steps, x, one)[0]
            yield f"what expert {e} makes of {words}", row
