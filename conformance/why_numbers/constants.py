"""Why an output is wrong: numbers of the layer that have other values.

alpha, beta and the limit of the activation, factors of the two biases and of the two
matrices, an exponent of the routing weights, and what an E2M1 code decodes to, are
fitted to the tokens that are furthest off (Gauss and Newton). Values are named only if
the whole output is right for the layer that has them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import replace
from typing import Any

import torch

from mxmoe.conformance.why_numbers.expert_content import Matrix
from mxmoe.conformance.why_numbers.expert_content import Otherwise
from mxmoe.conformance.why_numbers.honest_size import likely_share
from mxmoe.conformance.why_numbers.layer_steps import Fit
from mxmoe.conformance.why_numbers.layer_steps import Steps
from mxmoe.conformance.why_numbers.layer_steps import gated
from mxmoe.conformance.why_numbers.otherwise.contents import edited
from mxmoe.conformance.why_numbers.otherwise.one_thing import Wrong
from mxmoe.conformance.why_numbers.otherwise.one_thing import explain_otherwise
from mxmoe.reference.activation import split_halves
from mxmoe.reference.formats import e2m1
from mxmoe.reference.types import Activation

Tensor = torch.Tensor

# From a start that is wrong by half, four steps come to a thousandth; a table whose
# entries are all wrong takes some more.
_STEPS = 8
# A first step may go too far; after some, one that is not nearer never will be.
_PATIENCE, _NEARER = 3, 0.9
# Nor will one from where no step leads nearer, while errors are beyond the bound.
_FLAT = 0.99
_DONE = 2.0**-14
_DIFFERENCE = 2.0**-8
# Tokens that values are fitted to: some hundred numbers each, for fourteen unknowns.
_TOKENS = 4
# A number of fewer digits is named if it is not less likely by more: e**2 to 1.
_SIMPLER = 2.0
# All but the two zeros.
_CODES = (*range(1, 8), *range(9, 16))
# Of a matrix; more unknowns would take long.
_BLOCKS = 12
_TINY = torch.finfo(torch.float64).tiny
# What the right numbers may have been stored in.
_STORED = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class _Constants:
    """right : what they should be. named : their words. of : the layer with others."""

    right: tuple[float, ...]
    named: Callable[[tuple[float, ...]], str]
    of: Callable[[tuple[float, ...]], Otherwise]


def explain_constants(wrong: Wrong) -> list[Fit]:
    """Each set of constants that has other values, if they make the output right."""
    if not wrong.found.isfinite().all():
        return []
    ratio = (wrong.found - wrong.right).abs() / wrong.allowed.clamp(min=_TINY)
    at = ratio.amax(dim=1).argsort(descending=True)[:_TOKENS]
    fits = []
    for constants in _constants(wrong):
        for inside in _inside(wrong, at):
            if found := _explained(constants, wrong, at, inside):
                # Where it does not hold everywhere, fitted to slots of that place.
                place = found[0].place.removeprefix(", ")
                own = wrong.scopes.called(place) if place else None
                again = [] if own is None else _explained(constants, wrong, at, own[at])
                fits += again or found
                break
    return fits


def _inside(wrong: Wrong, at: Tensor) -> Iterator[Tensor]:
    """Slots [n, k] of tokens `at` that a constant may belong to: all, an expert's."""
    ids, served = wrong.experts.situation.routing.ids, wrong.experts.served
    yield served[at]
    every = ids[wrong.bad.any(dim=1)]
    for e in ids[at][served[at]].unique().tolist() if ids.shape[1] > 1 else ():
        if (every == e).any(dim=1).all():
            yield (served & (ids == e))[at]


def _explained(
    constants: _Constants, wrong: Wrong, at: Tensor, inside: Tensor
) -> list[Fit]:
    values = _fitted(constants, wrong, at, inside[..., None].double())
    found = []
    for rounded in dict.fromkeys(_rounded(values, constants.right) if values else ()):
        if rounded != constants.right:
            named = replace(constants.of(rounded), name=constants.named(rounded))
            found.append(explain_otherwise(wrong, [named]))
            # The whole output tells numbers apart, and a part of it may not.
            if found[-1] and not found[-1][0].place:
                return found[-1]
    left = [min(fit.left for fit in fits) for fits in found if fits]
    # The simplest of those that are about as likely as the likeliest.
    share = likely_share(wrong.found.numel(), nats=_SIMPLER)
    most = min(left, default=0.0) / share
    return next((f for f in found if f and min(x.left for x in f) <= most), [])


def _constants(wrong: Wrong) -> Iterator[_Constants]:
    situation = wrong.experts.situation
    a = situation.config.activation
    for name in ("alpha", "beta", "limit"):
        right = getattr(a, name)
        if math.isfinite(right):
            words = f"{name} of the activation is {{}}, not {right:g}"
            yield _one(words, right, _activation(name))
    if math.isfinite(a.limit):
        for half in ("gate", "up half"):
            words = f"limit of the {half} is {{}}, not {a.limit:g}"
            yield _one(words, a.limit, _half_limit(half))
    if situation.part.gate_up_bias is not None:
        yield _one("gate_up bias times {}", 1.0, _gate_up_bias)
        yield _one(
            "down bias times {}", 1.0, lambda v: Steps(down_bias=lambda b: v * b)
        )
    yield _one("result of GEMM1 times {}", 1.0, lambda v: Steps(z=lambda z: v * z))
    yield _one("GEMM2 times {}, not its bias", 1.0, _second)
    yield _Constants(
        (1.0,), lambda v: f"routing weights to the power of {v[0]:g}", _power
    )
    yield _Constants((1.0,), lambda v: _TEMPERATURE.format(f"{v[0]:g}"), _temperature)
    for matrices in (("gate_up", "down"), ("gate_up",), ("down",)):
        yield _table(matrices)
    for matrix in ("gate_up", "down"):
        count = getattr(situation.part, f"{matrix}_blocks").shape[2]
        if 1 < count <= _BLOCKS:
            yield _blocks(matrix, count)


_TEMPERATURE = (
    "routing weights to the power of {} and normalised: a temperature in the softmax"
)


# Said once: other searches have these words for the same layer.
_SAID = {
    "alpha of the activation is 1, not 1.702": "alpha taken as 1",
    "beta of the activation is 0, not 1": "no +1 on the up half",
}


def _one(words: str, right: float, of: Callable[[float], Steps]) -> _Constants:
    def say(values: tuple[float, ...]) -> str:
        said = words.format(f"{values[0]:g}")
        (value,) = values
        for dtype in _STORED if value != right else ():
            if float(torch.tensor(right).to(dtype)) == value:
                said += f": rounded to {str(dtype).removeprefix('torch.')}"
        return _SAID.get(said, said)

    return _Constants(
        (right,),
        say,
        lambda v: Otherwise(name="", steps=of(v[0])),
    )


def _activation(name: str) -> Callable[[float], Steps]:
    def of(value: float) -> Steps:
        edit: dict[str, Any] = {name: value}
        return Steps(gated=lambda z, b, a: gated(z, b, replace(a, **edit)))

    return of


def _half_limit(half: str) -> Callable[[float], Steps]:
    def of(value: float) -> Steps:
        def one(z: Tensor, b: Tensor, a: Activation) -> Tensor:
            gate, up = split_halves(z + b)
            limits = (value, a.limit) if half == "gate" else (a.limit, value)
            gate, up = gate.clamp(max=limits[0]), up.clamp(-limits[1], limits[1])
            return gate * torch.sigmoid(a.alpha * gate) * (up + a.beta)

        return Steps(gated=one)

    return of


def _gate_up_bias(value: float) -> Steps:
    return Steps(gated=lambda z, b, a: gated(z, value * b, a))


def _second(value: float) -> Steps:
    return Steps(act=lambda a: value * a)


def _power(values: tuple[float, ...]) -> Otherwise:
    def weigh(w: Tensor) -> Tensor:
        return torch.where(w > 0, w.clamp(min=_TINY) ** values[0], w)

    return Otherwise(name="", weigh=weigh)


def _temperature(values: tuple[float, ...]) -> Otherwise:
    def weigh(w: Tensor) -> Tensor:
        bent = torch.where(w > 0, w.clamp(min=_TINY) ** values[0], w)
        return bent / bent.sum(dim=1, keepdim=True).clamp(min=_TINY)

    return Otherwise(name="", weigh=weigh)


def _table(matrices: tuple[str, ...]) -> _Constants:
    """What the codes of E2M1 decode to."""
    right = tuple(e2m1.VALUES[code] for code in _CODES)

    def named(values: tuple[float, ...]) -> str:
        wrong = {a: b for a, b in zip(right, values, strict=True) if a != b}
        signed = [a for a in wrong if wrong.get(-a) != -wrong[a]]
        shown = signed or [a for a in wrong if a > 0]
        others = ", ".join(f"{a:g} as {wrong[a]:g}" for a in shown)
        return f"E2M1 codes of {' and '.join(matrices)} decoded wrongly: {others}"

    def of(values: tuple[float, ...]) -> Otherwise:
        table = torch.zeros(16, dtype=torch.float64)
        table[list(_CODES)] = torch.tensor(values, dtype=torch.float64)

        def change(m: Matrix) -> Matrix:
            return replace(m, elements=table[m.codes])

        return Otherwise(name="", edit=edited(change, matrices))

    return _Constants(right, named, of)


def _blocks(matrix: str, count: int) -> _Constants:
    """What each K block is multiplied by."""

    def named(values: tuple[float, ...]) -> str:
        shown = ", ".join(f"{v:g}" for v in values)
        return f"K blocks of {matrix} counted [{shown}] times"

    def of(values: tuple[float, ...]) -> Otherwise:
        factors = torch.tensor(values, dtype=torch.float64)

        def change(m: Matrix) -> Matrix:
            return replace(m, scales=m.scales * factors)

        return Otherwise(name="", edit=edited(change, (matrix,)))

    return _Constants((1.0,) * count, named, of)


def _fitted(
    constants: _Constants, wrong: Wrong, at: Tensor, inside: Tensor
) -> list[float] | None:
    """inside : [n, k, 1], 1 where the tokens `at` have other values."""
    rest = ((1 - inside) * wrong.slots[at]).sum(dim=1)
    size = wrong.allowed[at].clamp(min=_TINY)
    found = wrong.found[at] / size
    experts = wrong.experts.of_tokens(at)

    def output(values: list[float]) -> Tensor:
        layer = _unrounded(constants.of(tuple(values)))
        return (rest + (inside * experts.slots(layer)).sum(dim=1)) / size

    values, first = list(constants.right), 0.0
    for step in range(_STEPS):
        here = output(values)
        error = float((found - here).norm())
        first = first or error
        if step >= _PATIENCE and not error < _NEARER * first:
            return None
        slopes = []
        for n, value in enumerate(values):
            width = max(abs(value), 1.0) * _DIFFERENCE
            moved = [*values[:n], value + width, *values[n + 1 :]]
            slopes.append(((output(moved) - here) / width).flatten())
        columns = torch.stack(slopes, dim=1)
        if not columns.isfinite().all() or not columns.any():
            return None
        off = (found - here).flatten()[:, None]
        change = torch.linalg.lstsq(columns, off, driver="gelsd").solution[:, 0]
        left = float((off[:, 0] - columns @ change).norm())
        if error > math.sqrt(len(off)) and left > _FLAT * error:
            return None
        values = [v + d for v, d in zip(values, change.tolist(), strict=True)]
        if float(change.norm()) < _DONE:
            break
        if not all(_sane(v, r) for v, r in zip(values, constants.right, strict=True)):
            return None
    return values


def _rounded(
    values: list[float], right: tuple[float, ...]
) -> Iterator[tuple[float, ...]]:
    """Simpler numbers first: halves, two digits, ..., the right ones in few bits."""
    for unit in (2, 4):
        yield tuple(round(v * unit) / unit + 0.0 for v in values)
    for digits in (2, 3, 4):
        yield tuple(float(f"{v:.{digits}g}") for v in values)
    for dtype in _STORED:
        yield tuple(torch.tensor(right).to(dtype).tolist())
    yield tuple(float(f"{v:.6g}") for v in values)


def _sane(value: float, right: float) -> bool:
    return math.isfinite(value) and abs(value) <= 100 * (1 + abs(right))


def _unrounded(otherwise: Otherwise) -> Otherwise:
    """Roundings are larger than the differences of so small a step."""
    act = otherwise.steps.act or (lambda x: x)
    return replace(otherwise, steps=replace(otherwise.steps, act=act, y=lambda x: x))
