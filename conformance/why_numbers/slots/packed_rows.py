"""Why an output is wrong: gaps between rows that are read as if there were none.

Rows of a "strided" case are views with gaps of 0xFF bytes behind each row: ids of -1,
and NaN in all that floats.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from mxmoe.conformance.bounds.compare_numbers import compare_numbers
from mxmoe.conformance.cases.designed import as_packed
from mxmoe.conformance.why_numbers.honest_size import part_left
from mxmoe.conformance.why_numbers.layer_steps import Fit
from mxmoe.conformance.why_numbers.layer_steps import Situation
from mxmoe.reference.types import Arithmetic
from mxmoe.reference.types import Routing

Tensor = torch.Tensor
_WORDS = "read as if no gaps lay between rows (their row stride ignored)"


def explain_packed_rows(
    found: Tensor, truth: Tensor, s: Situation, arithmetic: Arithmetic
) -> list[Fit]:
    """What is read without its gaps, if that makes the output right."""
    if not s.strided or not found.isfinite().all():
        return []
    fits = []
    for name, packed in _packed(s):
        told, room = packed.judged(arithmetic)
        if compare_numbers(found, told, room).within:
            fits.append(Fit(name, part_left(found - told, found - truth, room)))
    return fits


def _packed(s: Situation) -> Iterator[tuple[str, Situation]]:
    ids, weights = (as_packed(x) for x in (s.routing.ids, s.routing.weights))
    finite = weights.nan_to_num(nan=0.0)
    yield f"routing ids and weights {_WORDS}", _routed(s, ids, finite)
    yield f"routing ids {_WORDS}", _routed(s, ids, s.routing.weights)
    yield f"routing weights {_WORDS}, NaN as 0", _routed(s, s.routing.ids, finite)
    states = as_packed(s.hidden_states).nan_to_num(nan=0.0)
    yield f"hidden states {_WORDS}, NaN as 0", replace(s, hidden_states=states)


def _routed(s: Situation, ids: Tensor, weights: Tensor) -> Situation:
    return replace(s, routing=Routing(ids, weights.where(ids >= 0, 0)))
