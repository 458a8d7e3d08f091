"""Why an encoder is wrong: another rule of the block scale, or of the rounding.

A hypothesis is an encoder. It is named only if it gives the scales and the codes of all
probes, up to the sign of a zero.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch

from mxmoe.reference.formats import SCALE_RULES
from mxmoe.reference.formats import e2m1
from mxmoe.reference.formats import e8m0
from mxmoe.reference.formats import encode
from mxmoe.reference.types import BLOCK

Tensor = torch.Tensor
# Largest of a block [..., g] -> exponents [..., g], whole numbers or not finite.
_Exponents = Callable[[Tensor], Tensor]
_EMAX = 2


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """What an encoder gave for x [..., 32g]: codes [..., g, 32], scales [..., g]."""

    x: Tensor
    codes: Tensor
    scales: Tensor


def why_encoded(given: list[Encoded], rule: str) -> list[str]:
    """The line that names what gives all of `given` under `rule`; [] if nothing."""
    names = [name for name, same in _hypotheses(rule) if all(map(same, given))]
    return [f"why    behaves as if: {'; or '.join(names)}"] if names else []


def _hypotheses(rule: str) -> Iterator[tuple[str, Callable[[Encoded], bool]]]:
    for name, scales in _other_scales(rule):
        yield name, partial(_is, scales=scales)
    right = partial(_by_rule, rule)
    for name, rounding in _OTHER_ROUNDINGS.items():
        yield name, partial(_is, scales=right, rounding=rounding)


def _by_rule(rule: str, x: Tensor) -> Tensor:
    return encode(x, rule)[1]


def _other_scales(rule: str) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
    """(words, x [..., 32g] -> scale bytes [..., g])."""
    for other in SCALE_RULES:
        if other != rule:
            yield f"scale rule {other} in place of {rule}", partial(_by_rule, other)
    for name, exponents in _OTHER_EXPONENTS.items():
        yield name, partial(_of_exponents, exponents)

    def stored(x: Tensor) -> Tensor:
        return _by_rule(rule, x.bfloat16().float())

    def leaking(x: Tensor) -> Tensor:
        return _by_rule(rule, x) | _top_bit(x)

    def of_row(x: Tensor) -> Tensor:
        scales = _by_rule(rule, x)
        return scales.amax(-1, keepdim=True).expand_as(scales)

    def moved(by: int, x: Tensor) -> Tensor:
        scales = _by_rule(rule, x)
        other = (scales.int() + by).clamp(0, e8m0.MAX_BYTE).to(torch.uint8)
        return torch.where(scales == 0, scales, other)

    yield "largest of a block rounded to bfloat16 before its exponent is taken", stored
    yield "top bit of the mantissa of the largest leaks into the scale byte", leaking
    yield "one scale for all blocks of a row: that of the largest", of_row
    yield "scale bytes one too high", partial(moved, 1)
    yield "scale bytes one too low", partial(moved, -1)


def _is(
    e: Encoded,
    *,
    scales: Callable[[Tensor], Tensor],
    rounding: Callable[[Tensor], Tensor] = e2m1.round_to_code,
) -> bool:
    """Whether these scales, and codes rounded under them, are what was given."""
    if not torch.equal(e.scales, scales(e.x)):
        return False
    groups = e.x.double().unflatten(-1, (-1, BLOCK))
    codes = rounding(torch.ldexp(groups, e8m0.BIAS - e.scales.int()[..., None]))
    zeros = ((codes & 7) == 0) & ((e.codes & 7) == 0)
    return bool(((codes == e.codes) | zeros).all())


def _largest(x: Tensor) -> Tensor:
    return x.float().unflatten(-1, (-1, BLOCK)).abs().amax(-1)


def _of_exponents(exponents: _Exponents, x: Tensor) -> Tensor:
    lowest, highest = 0.0, float(e8m0.MAX_BYTE)
    biased = (exponents(_largest(x)) + e8m0.BIAS).nan_to_num(lowest, highest, lowest)
    return biased.clamp(lowest, highest).to(torch.uint8)


def _top_bit(x: Tensor) -> Tensor:
    return (_largest(x).view(torch.int32) >> 22 & 1).to(torch.uint8)


_OTHER_EXPONENTS: dict[str, _Exponents] = {
    "scale of floor(log2(largest / 6))": lambda m: (m / e2m1.MAX).log2().floor(),
    "scale of round(log2(largest / 6))": lambda m: (m / e2m1.MAX).log2().round(),
    "scale of ceil(log2(largest / 6))": lambda m: (m / e2m1.MAX).log2().ceil(),
    "scale of floor(log2(largest / 4)), log2 in float32, which rounds up below a "
    "power of two": lambda m: m.log2().floor() - _EMAX,
    "scale of log2(largest / 4) cut towards 0, one too high below 1": lambda m: (
        m.log2() - _EMAX
    ).trunc(),
    "scale of round(log2(largest / 4))": lambda m: (m.log2() - _EMAX).round(),
    "scale of ceil(log2(largest / 4))": lambda m: (m.log2() - _EMAX).ceil(),
    "scale of floor(log2(largest))": lambda m: m.log2().floor(),
    "scale of floor(log2(largest / 8))": lambda m: m.log2().floor() - 3,
}


def _passing(thresholds: tuple[float, ...]) -> Callable[[Tensor], Tensor]:
    """Codes by how many of `thresholds` a magnitude reaches."""

    def rounding(values: Tensor) -> Tensor:
        passed = values.abs()[..., None] >= torch.tensor(thresholds).double()
        return (passed.sum(-1) + 8 * values.signbit()).to(torch.uint8)

    return rounding


def _beyond(thresholds: tuple[float, ...]) -> Callable[[Tensor], Tensor]:
    def rounding(values: Tensor) -> Tensor:
        passed = values.abs()[..., None] > torch.tensor(thresholds).double()
        return (passed.sum(-1) + 8 * values.signbit()).to(torch.uint8)

    return rounding


def _swapped(values: Tensor) -> Tensor:
    codes = e2m1.round_to_code(values)
    return codes.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)


_OTHER_ROUNDINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "elements rounded with midpoints away from 0, not to even": _passing(
        e2m1.MIDPOINTS
    ),
    "elements rounded with midpoints towards 0, not to even": _beyond(e2m1.MIDPOINTS),
    "elements cut off towards 0, not rounded": _passing(e2m1.VALUES[1:8]),
    "elements rounded away from 0, not to nearest": _beyond((0.0, *e2m1.VALUES[1:7])),
    "nibbles swapped": _swapped,
    "signs lost": lambda v: e2m1.round_to_code(v.abs()),
}
