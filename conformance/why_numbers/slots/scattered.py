"""Why an output is wrong: rows that are stored at the place of other rows.

A tile whose rows are stored where another tile's belong writes over these, or adds to
them, and its own places stay empty. Maps of one place to one are said as rows that are
taken from elsewhere (`gathers`); here several rows share a place.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from mxmoe.conformance.bounds.propagated import half_ulp
from mxmoe.conformance.why_numbers.expert_content import RIGHT
from mxmoe.conformance.why_numbers.expert_content import Experts
from mxmoe.conformance.why_numbers.layer_steps import Fit
from mxmoe.conformance.why_numbers.otherwise.one_thing import Wrong
from mxmoe.conformance.why_numbers.slots.gathers import meanings
from mxmoe.conformance.why_numbers.slots.gathers import rest_of_error
from mxmoe.conformance.why_numbers.slots.slot_sources import UNKNOWN
from mxmoe.conformance.why_numbers.slots.slot_sources import slot_sources

Tensor = torch.Tensor
# Elements of the slots; more would take a second for all maps.
_LARGEST = 2**19
# Of the worst token, what a map must explain.
_HALF = 0.5
_LAST, _ADDED = "the last one stays", "all are added up"


@dataclass(frozen=True, kw_only=True)
class _Stored:
    """One way to store. slots : what slots [m, k] of tokens [m] add, [m, k, h]."""

    words: str
    slots: Callable[[Tensor], Tensor]


def explain_scattered(wrong: Wrong) -> list[Fit]:
    """Each map of places, and what is stored there, that makes the output right."""
    if not wrong.found.isfinite().all() or not 1 < wrong.slots.numel() <= _LARGEST:
        return []
    every, fits = torch.arange(len(wrong.found)), []
    for stored in _ways(wrong.experts):
        if not _likely(wrong, stored.slots(every[wrong.worst, None])[0].sum(dim=0)):
            continue
        slots = stored.slots(every)
        left = rest_of_error(wrong, slots, torch.ones_like(every, dtype=torch.bool))
        if left is not None:
            fits.append(Fit(stored.words, left))
    return fits


def _likely(wrong: Wrong, told: Tensor) -> bool:
    """Whether the output `told` [h] of the worst token is much nearer to the found."""
    found, right = wrong.found[wrong.worst], wrong.right[wrong.worst]
    room = half_ulp(told, wrong.experts.arithmetic.output)
    rest = ((found - told).abs() - room).clamp(min=0)
    return float(rest.norm()) < _HALF * float((found - right).norm())


def _ways(experts: Experts) -> Iterator[_Stored]:
    rows = _Rows(experts)
    for name, source, to in _maps(experts):
        last = _last_stored(source, to, experts.weights.numel())
        where = f"at the place of {name}"
        end = f", not at its own: {{}}, and what is not stored is 0{meanings(name)}"
        for what, given, weighs in (
            ("weighted result", rows.weighted, False),
            ("result", rows.results, True),
        ):
            words = f"GEMM2 stores each slot's {what} {where}{end}"
            added = torch.zeros_like(given).index_add(0, to, given[source])
            for how, stored in ((_LAST, _rows_at(given, last)), (_ADDED, added)):
                slots = rows.taking(stored, weighs=weighs)
                yield _Stored(words=words.format(how), slots=slots)
        words = f"GEMM1 stores each slot's intermediate {where}{end}".format(_LAST)
        slots = rows.multiplying(_rows_at(rows.lanes, last))
        yield _Stored(words=words, slots=slots)


def _maps(experts: Experts) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(words, slots in the order of experts, where each is stored), some in one place.

    What would be stored at a slot that the rank does not serve is lost.
    """
    served = experts.served.flatten()
    mine = torch.where(experts.served, experts.situation.routing.ids, UNKNOWN)
    at = served.nonzero()[:, 0]
    at = at[mine.flatten()[at].argsort(stable=True)]
    for name, place in slot_sources(mine) if len(at) > 1 else ():
        to = place[at]
        inside = (to >= 0) & served[to.clamp(min=0)]
        if len(to[inside].unique()) < int(inside.sum()):
            yield name, at[inside], to[inside]


def _last_stored(source: Tensor, to: Tensor, places: int) -> Tensor:
    """Which of `source` each place [places] holds in the end, or `UNKNOWN`."""
    number = torch.arange(len(to))
    last = torch.full((places,), UNKNOWN).scatter_reduce(0, to, number, "amax")
    return torch.where(last < 0, UNKNOWN, source[last.clamp(min=0)])


def _rows_at(rows: Tensor, source: Tensor) -> Tensor:
    """Rows `source` [n] of `rows`, 0 where there is none."""
    return torch.where((source >= 0)[:, None], rows[source.clamp(min=0)], 0)


class _Rows:
    """What should be stored: lanes [t * k, i], results and weighted ones [t * k, h]."""

    def __init__(self, experts: Experts) -> None:
        self._experts = experts
        shape, part = experts.weights.shape, experts.situation.part
        hidden, lanes = part.down_blocks.shape[1], part.down_scales.shape[2] * 32
        between = torch.zeros(*shape, lanes, dtype=torch.float64)
        results = torch.zeros(*shape, hidden, dtype=torch.float64)
        for local in experts.visited():
            mine, rows = experts.visit(local)
            content = experts.content(local)
            between[mine] = experts.intermediate(content, RIGHT.steps, rows)
            results[mine] = experts.down(content, between[mine])
        self.lanes, self.results = between.flatten(0, 1), results.flatten(0, 1)
        self.weighted = (experts.weights[..., None] * results).flatten(0, 1)

    def taking(self, stored: Tensor, *, weighs: bool) -> Callable[[Tensor], Tensor]:
        """Slots that are the rows [t * k, h] stored, or these times their weights."""
        weights = self._experts.weights
        table = stored.unflatten(0, weights.shape)
        return lambda t: weights[t][..., None] * table[t] if weighs else table[t]

    def multiplying(self, stored: Tensor) -> Callable[[Tensor], Tensor]:
        """Slots that GEMM2 makes of the lanes [t * k, i] stored."""
        experts = self._experts
        table = stored.unflatten(0, experts.weights.shape)
        ids = experts.situation.routing.ids - experts.first

        def slots(t: Tensor) -> Tensor:
            lanes, local = table[t], ids[t]
            found = lanes.new_zeros(*local.shape, self.results.shape[1])
            for e in experts.visited():
                if (mine := local == e).any():
                    found[mine] = experts.down(experts.content(e), lanes[mine])
            return experts.weights[t][..., None] * found

        return slots
