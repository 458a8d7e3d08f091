"""Why an output is wrong: tokens that were given the rows of other tokens.

A wrong token may have the hidden states, or the experts and weights, of another one;
or something is added to it: another token's output, or the result of an expert that it
does not visit. Each wrong token is held against all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from mxmoe.conformance.bounds.propagated import half_ulp
from mxmoe.conformance.why_numbers.expert_content import RIGHT
from mxmoe.conformance.why_numbers.expert_content import Experts
from mxmoe.conformance.why_numbers.layer_steps import Situation
from mxmoe.conformance.why_numbers.moved import by_one_step
from mxmoe.conformance.why_numbers.moved import moved
from mxmoe.conformance.why_numbers.moved import ranges
from mxmoe.conformance.why_numbers.otherwise.one_thing import Wrong
from mxmoe.reference.types import Routing

Tensor = torch.Tensor
_TINY = torch.finfo(torch.float64).tiny
# Wrong tokens that are held against every row; more would take seconds.
_TOKENS = 48
# A part of this size of something that is not there is a rounding.
_LEAST = 2.0**-6


def explain_rows(wrong: Wrong) -> list[str]:
    """Sentences about the rows that wrong tokens were given; [] if none fits all."""
    bad = wrong.bad.any(dim=1).nonzero()[:, 0].tolist()
    if not bad or len(bad) > _TOKENS or not wrong.found.isfinite().all():
        return []
    return [
        *_given(wrong, bad, "hidden states", _with_states),
        *_given(wrong, bad, "experts and routing weights", _with_routing),
        *_given(wrong, bad, "experts", _with_experts),
        *_given(wrong, bad, "routing weights", _with_weights),
        *_added(wrong, bad),
    ]


def _with_states(s: Situation, token: int) -> Situation:
    """Every row's hidden states, with the routing of `token`."""
    ids, weights = s.routing.ids, s.routing.weights
    own = Routing(ids[token].expand_as(ids), weights[token].expand_as(weights))
    return replace(s, routing=own)


def _with_routing(s: Situation, token: int) -> Situation:
    states = s.hidden_states[token].expand_as(s.hidden_states)
    return replace(s, hidden_states=states)


def _with_experts(s: Situation, token: int) -> Situation:
    weights = s.routing.weights[token].expand_as(s.routing.weights)
    routing = Routing(s.routing.ids, weights)
    return replace(_with_routing(s, token), routing=routing)


def _with_weights(s: Situation, token: int) -> Situation:
    ids = s.routing.ids[token].expand_as(s.routing.ids)
    return replace(_with_routing(s, token), routing=Routing(ids, s.routing.weights))


def _given(wrong: Wrong, bad: list[int], what: str, change) -> Iterator[str]:  # type: ignore[no-untyped-def]
    own, likes = wrong.experts, dict[int, list[int]]()
    for token in bad:
        layer = Experts(change(own.situation, token), own.arithmetic, like=own)
        told = layer.slots(RIGHT).sum(dim=1)
        room = 2 * wrong.allowed[token].clamp(min=_TINY)
        room = room + half_ulp(told, own.arithmetic.output)
        error = (wrong.found[token] - told).abs() / room
        fits = error.amax(dim=1) <= 1
        like = fits.nonzero()[:, 0]
        if fits[token] or not len(like):
            return
        likes[token] = like.tolist()
    places = by_one_step(likes, len(wrong.found))
    yield from moved("token", places, len(wrong.found), f"the {what}")


def _added(wrong: Wrong, bad: list[int]) -> Iterator[str]:
    rest = wrong.found - wrong.right
    outputs, s = wrong.right, wrong.experts.situation
    factors = [_part(rest[t], outputs, wrong.allowed[t]) for t in bad]
    if all(f is not None for f in factors):
        places = {t: f[0] for t, f in zip(bad, factors, strict=True) if f}
        if all(t != n for t, n in places.items()):
            sizes = {f"{f[1]:.2g}" for f in factors if f}
            times = f" times {sizes.pop()}" if len(sizes) == 1 else ""
            yield from moved("token", places, len(rest), f"also the output{times}")
    extra = []
    for token in bad:
        results = _results(wrong.experts, s.hidden_states[token])
        found = _part(rest[token], results, wrong.allowed[token])
        if found is None or found[0] in (s.routing.ids[token] - wrong.experts.first):
            return
        extra.append((token, wrong.experts.first + found[0], found[1]))
    experts, sizes = {e for _, e, _ in extra}, {f"{f:.2g}" for _, _, f in extra}
    which = f"expert {experts.pop()}" if len(experts) == 1 else "another expert"
    size = f" times {sizes.pop()}" if len(sizes) == 1 else ""
    rows = ranges("token", wrong.bad.any(dim=1))
    yield f"the result of {which}{size}, which is not visited, is added to {rows}"


def _part(rest: Tensor, rows: Tensor, allowed: Tensor) -> tuple[int, float] | None:
    """(which of `rows` [n, h], how much of it) is the whole of `rest` [h]."""
    scale = 1 / allowed.clamp(min=_TINY)
    scaled = rows * scale
    size = scaled.square().sum(dim=1).clamp(min=_TINY)
    factors = (scaled * (rest * scale)).sum(dim=1) / size
    left = (rest - factors[:, None] * rows).abs() * scale
    fits = (left.amax(dim=1) <= 1 + 2 * factors.abs()) & (factors.abs() > _LEAST)
    like = fits.nonzero()[:, 0]
    return (int(like[0]), float(factors[like[0]])) if len(like) else None


def _results(experts: Experts, x: Tensor) -> Tensor:
    """What every expert of the rank makes of one row [h]: [e, h]."""
    row, one = x[None].double(), torch.ones(1, 1, dtype=torch.float64)
    return torch.cat(
        [
            experts.rows(experts.content(e), RIGHT.steps, row, one)
            for e in range(experts.count)
        ]
    )
