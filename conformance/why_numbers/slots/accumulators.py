"""Why an output is wrong: sums that begin with those of an earlier tile of rows.

A kernel walks the rows of each expert in tiles, and row r of a tile has the
accumulators of row r of the tile before. Where these are not cleared, a row also holds
the products of rows r - tile, r - 2 tile, ..., of its expert or of those before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from mxmoe.conformance.why_numbers.expert_content import Experts
from mxmoe.conformance.why_numbers.layer_steps import Fit
from mxmoe.conformance.why_numbers.layer_steps import gated
from mxmoe.conformance.why_numbers.layer_steps import through
from mxmoe.conformance.why_numbers.otherwise.one_thing import Wrong
from mxmoe.conformance.why_numbers.slots.gathers import rest_of_error
from mxmoe.conformance.why_numbers.slots.slot_sources import TILES

Tensor = torch.Tensor
# Rows by rows are added, and more would take a second.
_LARGEST = 2**10

_WITHIN = (
    "the sums of the tiles before of its expert: accumulators cleared once an expert"
)
_FORMER = "the sums of the tile before of its expert, of those alone"
_EVER = "the sums of the tiles before, of other experts too: accumulators never cleared"
_BETWEEN = (
    "the sums of the last tile of the expert before, if it is the first of its own: "
    "accumulators not cleared between experts"
)


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """The slots that a rank serves, sorted by expert.

    at : their places in the flat [t * k]. expert, row : of each, that on the rank and
    the row among those of its expert.
    """

    at: Tensor
    expert: Tensor
    row: Tensor


def explain_accumulators(wrong: Wrong) -> list[Fit]:
    """Each tile, GEMM and place where sums are kept that make the output right."""
    experts, bad = wrong.experts, wrong.bad.any(dim=1)
    rows = _rows(experts)
    if not 1 < len(rows.at) <= _LARGEST or not wrong.found.isfinite().all():
        return []
    gemms = _Gemms(experts, rows)
    fits = []
    for words, added in _chains(rows):
        other = torch.zeros(experts.weights.numel(), dtype=torch.bool)
        other[rows.at[added.sum(dim=1) > 1]] = True
        touched = other.reshape(experts.weights.shape).any(dim=1)
        if not bool(touched[bad].all()):
            continue
        for name, first, second in (
            ("GEMM1", True, False),
            ("GEMM2", False, True),
            ("each GEMM", True, True),
        ):
            slots = gemms.slots(added.double(), first=first, second=second)
            every = torch.ones_like(bad)
            left = rest_of_error(wrong, slots, every)
            if left is not None:
                fits.append(Fit(f"{name} {words}", left))
    return fits


def _rows(experts: Experts) -> _Rows:
    local = (experts.situation.routing.ids - experts.first).flatten().long()
    served = (local >= 0) & (local < experts.count)
    order = torch.where(served, local, experts.count).argsort(stable=True)
    at = order[: int(served.sum())]
    expert = local[at]
    first = torch.searchsorted(expert, expert)
    return _Rows(at=at, expert=expert, row=torch.arange(len(at)) - first)


def _chains(rows: _Rows) -> Iterator[tuple[str, Tensor]]:
    """(words, bool [n, n]: the rows whose products each row's sums hold).

    Kernels without such a tile, or with one for all rows of an expert, give none.
    """
    same = rows.expert[:, None] == rows.expert
    none = torch.eye(len(rows.at), dtype=torch.bool)
    for tile in TILES:
        lane, of_expert = rows.row % tile, rows.row // tile
        begins = lane.eq(0).long()
        # Every tile of the launch has a number.
        number = begins.cumsum(0) - 1
        chain = _chain_starts(of_expert, number)
        aligned = lane[:, None] == lane
        before = aligned & (number <= number[:, None])
        apart = of_expert[:, None] - of_expert
        for words, added in (
            (_WITHIN, before & same),
            (_FORMER, aligned & same & ((apart == 0) | (apart == 1))),
            (_EVER, before),
            (_BETWEEN, before & (number >= chain[:, None])),
        ):
            if not torch.equal(added, none):
                yield f"begins each tile of {tile} rows with {words}", added


def _chain_starts(of_expert: Tensor, number: Tensor) -> Tensor:
    """The tile [n] whose sums are the first that a row's hold, if only a tile that is
    not the first of its expert begins with cleared ones."""
    starts, found = dict[int, int](), []
    for nth, tile in zip(of_expert.tolist(), number.tolist(), strict=True):
        if tile not in starts:
            starts[tile] = starts.get(tile - 1, tile) if nth == 0 else tile
        found.append(starts[tile])
    return torch.tensor(found)


class _Gemms:
    """The products of both GEMMs, before anything is added to them."""

    def __init__(self, experts: Experts, rows: _Rows) -> None:
        self._experts, self._rows = experts, rows
        s = experts.situation
        k = s.routing.ids.shape[1]
        self._x = s.hidden_states.double()[rows.at // k]
        self._each = [(e, rows.expert == e) for e in experts.visited()]
        self._first = self._by_expert(self._x, "gate_up")
        self._lanes = self._activated(self._first)
        self._second = self._by_expert(self._lanes, "down")

    def _by_expert(self, x: Tensor, matrix: str) -> Tensor:
        parts = []
        for e, mine in self._each:
            parts.append(x[mine] @ getattr(self._experts.content(e), matrix).dense.T)
        return torch.cat(parts)

    def _activated(self, z: Tensor) -> Tensor:
        activation = self._experts.situation.config.activation
        parts = [
            gated(z[mine], self._experts.content(e).gate_up.bias, activation)
            for e, mine in self._each
        ]
        dtype = self._experts.arithmetic.intermediate
        return through(torch.cat(parts), dtype=dtype)

    def slots(self, added: Tensor, *, first: bool, second: bool) -> Tensor:
        """What slots add [t, k, h] where rows hold those of `added` [n, n] as well."""
        y = self._second
        if first:
            y = self._by_expert(self._activated(added @ self._first), "down")
        if second:
            y = added @ y
        biased = [
            y[mine] + self._experts.content(e).down.bias for e, mine in self._each
        ]
        result = through(torch.cat(biased), dtype=self._experts.arithmetic.slot)
        weights = self._experts.weights
        found = result.new_zeros(weights.numel(), result.shape[1])
        found[self._rows.at] = result
        return weights[..., None] * found.reshape(*weights.shape, -1)
