"""Why an output is wrong: slots that this rank does not serve add something.

Their rows of the workspace are not written, or their index is that of another row, or
some expert makes something of no row; and they are added with their weights, as if they
were served.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from mxmoe.conformance.bounds.propagated import Judged
from mxmoe.conformance.bounds.propagated import half_ulp
from mxmoe.conformance.why_numbers.honest_size import part_left
from mxmoe.conformance.why_numbers.layer_steps import Fit
from mxmoe.conformance.why_numbers.layer_steps import Situation
from mxmoe.conformance.why_numbers.slots.empty_rows import made_rows
from mxmoe.conformance.why_numbers.slots.gathers import meanings
from mxmoe.conformance.why_numbers.slots.slot_sources import UNKNOWN
from mxmoe.conformance.why_numbers.slots.slot_sources import slot_sources
from mxmoe.reference.types import Arithmetic
from mxmoe.reference.types import Routing

Tensor = torch.Tensor
# Of the slots that add something, those of which is not known what.
_UNKNOWN = 0.5


@dataclass(frozen=True, kw_only=True)
class Former:
    """One call earlier: its routing, and what each slot gave, `judged`."""

    routing: Routing
    judged: Judged


@dataclass(frozen=True, kw_only=True)
class _Source:
    """words : whose row each slot [t, k] takes. row : its place, or `UNKNOWN`.

    rows, allowed : [n, h], what lies there and what that may be off by. weights : [n],
    those of the slots that gave these rows; None if no slot did.
    """

    words: str
    row: Tensor
    rows: Tensor
    allowed: Tensor
    weights: Tensor | None


def explain_empty_slots(
    found: Tensor,
    judged: Judged,
    s: Situation,
    arithmetic: Arithmetic,
    former: Former | None = None,
) -> list[Fit]:
    """Whose rows the slots that are not served add, if that makes `found` right."""
    ids, given = s.routing.ids, s.routing.weights.double()
    served = _served(ids, s)
    empty = ~served & (given != 0)
    truth, allowed = judged.truth["combine"], judged.allowed["combine"]
    bad = ((found - truth).abs() > allowed).any(dim=1)
    if not empty.any() or not found.isfinite().all() or bad[~empty.any(dim=1)].any():
        return []
    who = _who(ids, empty)
    fits = []
    for source in _sources(judged, ids, served, former, s, arithmetic):
        known = ~((source.row == UNKNOWN) & empty).any(dim=1)
        if not bad[known].any() or float((~known).double().mean()) > _UNKNOWN:
            continue
        at = source.row.clamp(min=0)
        for how, weights in _weights(source, given, at):
            weights = torch.where(empty, weights, 0)
            told = truth + torch.einsum("tk,tkh->th", weights, source.rows[at])
            room = torch.einsum("tk,tkh->th", weights.abs(), source.allowed[at])
            room = (allowed + room + half_ulp(told, arithmetic.output))[known]
            rest = (found - told)[known]
            if bool((rest.abs() <= room).all()):
                left = part_left(rest, (found - truth)[known], room)
                words = f"{source.words}{how}{meanings(source.words)}"
                fits.append(Fit(f"{who} add {words}", left))
    return fits


def _weights(
    source: _Source, given: Tensor, at: Tensor
) -> Iterator[tuple[str, Tensor]]:
    """(words, the weights [t, k] with which the rows `at` [t, k] are added)."""
    yield "", given
    yield ", not weighted", torch.ones_like(given)
    # Rows may be stored weighted already.
    if source.weights is not None:
        yield ", with that row's weight", source.weights[at]


def _served(ids: Tensor, s: Situation) -> Tensor:
    owned = s.shard.expert_range(s.config)
    return (ids >= owned.start) & (ids < owned.stop)


def _who(ids: Tensor, empty: Tensor) -> str:
    none, elsewhere = bool((ids[empty] < 0).any()), bool((ids[empty] >= 0).any())
    if none and elsewhere:
        return "slots without an expert on this rank"
    return "slots without an expert (-1)" if none else "slots of other ranks' experts"


def _sources(
    judged: Judged,
    ids: Tensor,
    served: Tensor,
    former: Former | None,
    s: Situation,
    arithmetic: Arithmetic,
) -> Iterator[_Source]:
    rows, allowed = (x["down"].flatten(0, 1) for x in (judged.truth, judged.allowed))
    for words, row in _rows(ids, served):
        source = row.reshape(ids.shape)
        if not torch.equal(source, torch.arange(ids.numel()).reshape(ids.shape)):
            yield _Source(
                words=f"the result of {words}",
                row=source,
                rows=rows,
                allowed=allowed,
                weights=s.routing.weights.double().flatten(),
            )
    yield from _biases(s, ids)
    for made in made_rows(s, arithmetic):
        yield _Source(
            words=made.words,
            row=made.row,
            rows=made.rows,
            allowed=made.allowed,
            weights=None,
        )
    if former is None:
        return
    before = _served(former.routing.ids, s)
    rows, allowed = (
        x["down"].flatten(0, 1) for x in (former.judged.truth, former.judged.allowed)
    )
    n = torch.arange(ids.numel())
    place = _sorted(ids, served).argsort()
    order = _sorted(former.routing.ids, before)
    for words, row in (
        ("what the former call left in row n", n),
        ("what the former call left in row p", order[place]),
    ):
        written = before.flatten()[row]
        row = torch.where(written, row, UNKNOWN).reshape(ids.shape)
        weights = former.routing.weights.double().flatten()
        yield _Source(words=words, row=row, rows=rows, allowed=allowed, weights=weights)


def _biases(s: Situation, ids: Tensor) -> Iterator[_Source]:
    """A bias of the first or last expert, as rows of nothing get it."""
    bias, owned = s.part.down_bias, s.shard.expert_range(s.config)
    if bias is None or not len(bias):
        return
    for local in dict.fromkeys((0, len(bias) - 1)):
        for share in dict.fromkeys((1, s.shard.tp_size)):
            rows = bias[local : local + 1].double() / share
            part = "" if share == 1 else f", divided by tp = {share}"
            yield _Source(
                words=f"the down bias of expert {owned.start + local}{part}",
                row=torch.zeros_like(ids, dtype=torch.long),
                rows=rows,
                allowed=torch.zeros_like(rows),
                weights=None,
            )


def _sorted(ids: Tensor, served: Tensor) -> Tensor:
    """The slot n at each position when those that are served are sorted by expert."""
    flat, beyond = ids.flatten().long(), int(ids.max()) + 1
    return torch.where(served.flatten(), flat, beyond).argsort(stable=True)


def _rows(ids: Tensor, served: Tensor) -> Iterator[tuple[str, Tensor]]:
    """(words, the slot n [t * k] whose result each slot adds)."""
    t, k = ids.shape
    n, order = torch.arange(t * k), _sorted(ids, served)
    last = int(served.sum()) - 1
    yield "slot 0 of token 0", torch.zeros_like(n)
    yield "the last slot of the last token", torch.full_like(n, t * k - 1)
    yield "its slot of token 0", n % k
    yield "slot 0 of its token", n // k * k
    yield "the last slot of its token", n // k * k + k - 1
    if last >= 0:
        words = "slot when all are sorted by expert"
        yield f"the first {words}", order[:1].expand_as(n)
        yield f"the last {words}", order[last : last + 1].expand_as(n)
    yield from slot_sources(torch.where(served, ids, UNKNOWN))
