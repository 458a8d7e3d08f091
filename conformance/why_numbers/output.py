"""Why an output is wrong, as far as the output itself tells it.

Elements that are zero, one factor on everything, tokens or columns in another order,
something added: none of it needs a weight, so a layer of any size can be asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mxmoe.conformance.bounds.compare_numbers import damage
from mxmoe.conformance.bounds.propagated import half_ulp
from mxmoe.conformance.why_bytes.finished_tensor import EDITS
from mxmoe.conformance.why_numbers.honest_size import has_honest_size
from mxmoe.conformance.why_numbers.honest_size import honest_variance
from mxmoe.conformance.why_numbers.honest_size import part_left
from mxmoe.conformance.why_numbers.layer_steps import Fit
from mxmoe.conformance.why_numbers.layer_steps import through
from mxmoe.conformance.why_numbers.moved import found_at
from mxmoe.conformance.why_numbers.moved import moved
from mxmoe.conformance.why_numbers.moved import order_of
from mxmoe.conformance.why_numbers.moved import ranges
from mxmoe.reference.types import Arithmetic

# Of the wrong elements, that two calls should have given other numbers for.
_APART = 0.5

# A factor nearer to 1 than this is a rounding, and not told from one here.
_SMALLEST_FACTOR = 2.0**-10


_FACTOR = "the whole output times"
# A factor for each column is fitted to as many numbers.
_FEWEST_ROWS = 8
# Of the columns, that are wrong.
_MANY = 0.5
# Factors that differ by less are one.
_APART_FACTORS = 0.02
_SHOWN = 4


# One wrong number may be the largest by chance.
_FEWEST_LIMITED = 3


_Told = tuple[str, torch.Tensor, torch.Tensor]
"""A sentence, the output [t, h] that it tells of, what is allowed around that."""


@dataclass(frozen=True, kw_only=True)
class Output:
    """What one rank gave, and what it should have given.

    found, truth, allowed, hidden_states : float64 [t, h] on the CPU. former : what the
    candidate gave one call earlier for other numbers, last what it should have given.
    """

    found: torch.Tensor
    truth: torch.Tensor
    allowed: torch.Tensor
    hidden_states: torch.Tensor
    arithmetic: Arithmetic
    former: Sequence[torch.Tensor] = ()

    def bad(self) -> torch.Tensor:
        """bool [t, h]: out of bound."""
        return ~((self.found - self.truth).abs() <= self.allowed)

    def gives(self, truth: torch.Tensor, allowed: torch.Tensor) -> bool:
        """Whether `found` is `truth` within `allowed` and the output's own rounding."""
        slack = allowed + half_ulp(truth.abs() + allowed, self.arithmetic.output)
        return bool(((self.found - truth).abs() <= slack).all())

    def fit(self, name: str, told: torch.Tensor, allowed: torch.Tensor) -> Fit | None:
        """`name`, if what it leaves has the size of honest errors."""
        rest, dtype = self.found - told, self.arithmetic.output
        variance = honest_variance(told, allowed, dtype)
        if name.startswith(_FACTOR):
            # What was multiplied behind its rounding was rounded again.
            variance = variance + half_ulp(told, dtype) ** 2 / 3
        if not has_honest_size(rest, variance):
            return None
        return Fit(name, part_left(rest, self.found - self.truth, self.allowed))


def explain_output(output: Output) -> list[Fit]:
    """Every sentence that is true of the whole of `output`; [] if none is."""
    if output.found.numel() == 0 or not output.found.isfinite().all():
        return []
    fits = [
        output.fit(*told)
        for explain in (
            _zeros,
            _limited,
            _factor,
            _factors,
            _tokens,
            _columns,
            _added,
            _leaked,
            _former,
            _stored,
            _cut,
        )
        for told in explain(output)
    ]
    return [fit for fit in fits if fit is not None]


def _zeros(output: Output) -> Iterator[_Told]:
    zero, bad = output.found == 0, output.bad()
    rows, columns = zero.all(dim=1), zero.all(dim=0)
    if not bad.any() or not (rows[:, None] | columns)[bad].all():
        return
    if zero.all():
        yield "output all zero", output.found, output.allowed
        return
    told = torch.where(rows[:, None] | columns, 0, output.truth)
    for what, mask in (("token", rows), ("column", columns)):
        if mask.any():
            yield f"output: {ranges(what, mask)} all zero", told, output.allowed


def _limited(output: Output) -> Iterator[_Told]:
    """Everything that is wrong has one size: the largest there is."""
    most, bad = float(output.found.abs().amax()), output.bad()
    told, room = output.truth.clamp(-most, most), output.allowed
    same = most > 0 and bool((output.found.abs() == most)[bad].all())
    if same and int(bad.sum()) >= _FEWEST_LIMITED and output.gives(told, ~bad * room):
        yield f"the output limited to +-{most:.4g}", told, output.allowed


def _factor(output: Output) -> Iterator[_Told]:
    found, truth = output.found, output.truth
    weight = 1 / output.allowed.clamp(min=torch.finfo(torch.float64).tiny) ** 2
    size = float((weight * truth**2).sum())
    factor = float((weight * found * truth).sum()) / size if size else 0.0
    # Fitted to so many elements, it is known better than any of them; twice that for
    # roundings that they share.
    known = 2 * size**-0.5 if size else 0.0
    for digits in (1, 2, 3, 4):
        short = float(f"{factor:.{digits}g}")
        near = abs(short - factor) <= known or digits == 4
        if short and abs(short - 1) > _SMALLEST_FACTOR and near:
            # What is multiplied is the error as well.
            allowed = output.allowed * abs(factor)
            if output.gives(factor * truth, allowed):
                yield f"{_FACTOR} {short:g}", factor * truth, allowed
            break
    bad = output.bad()
    for what, dim, place in (("token", 1, bad.any(dim=1)), ("column", 0, bad.any(0))):
        if place.any() and not place.all():
            mask = place[:, None] if dim else place
            inside = weight * mask
            size = float((inside * truth**2).sum())
            factor = float((inside * found * truth).sum()) / size if size else 0.0
            told = torch.where(mask, factor * truth, truth)
            allowed = torch.where(mask, abs(factor), 1) * output.allowed
            if factor and output.gives(told, allowed):
                words = f"the output of {ranges(what, place)} times {factor:.3g}"
                yield words, told, allowed


def _factors(output: Output) -> Iterator[_Told]:
    """Each column has a factor of its own: scales by column, missing or in addition."""
    found, truth = output.found, output.truth
    # One wrong column has a sentence of its own.
    if len(truth) < _FEWEST_ROWS or output.bad().any(dim=0).double().mean() < _MANY:
        return
    weight = 1 / output.allowed.clamp(min=torch.finfo(torch.float64).tiny) ** 2
    size = (weight * truth**2).sum(dim=0)
    factor = torch.where(size > 0, (weight * found * truth).sum(dim=0) / size, 1)
    low, high = float(factor.min()), float(factor.max())
    told, allowed = factor * truth, output.allowed * factor.abs().clamp(min=1)
    apart = len(factor.unique()) > 2 and high - low > _APART_FACTORS
    if apart and output.gives(told, allowed):
        shown = ", ".join(f"{float(f):.3g}" for f in factor[:_SHOWN])
        words = f"each column of the output times a factor of its own: {shown}, ..."
        yield words, told, allowed


def _tokens(output: Output) -> Iterator[_Told]:
    places = found_at(output.found, output.truth, output.allowed, output.bad())
    if places:
        bad = int(output.bad().any(dim=1).sum())
        order = order_of(places, len(output.found), bad)
        for name in moved("token", places, len(order)):
            yield name, output.truth[order], output.allowed[order]


def _columns(output: Output) -> Iterator[_Told]:
    if len(output.found) < 2:  # one number has a like too easily
        return
    places = found_at(output.found.T, output.truth.T, output.allowed.T, output.bad().T)
    if places:
        bad = int(output.bad().any(dim=0).sum())
        order = order_of(places, output.found.shape[1], bad)
        known = [f"columns in another order: {name}" for name in _row_orders(order)]
        for name in known or moved("column", places, len(order)):
            yield name, output.truth[:, order], output.allowed[:, order]


def _row_orders(order: torch.Tensor) -> Iterator[str]:
    """Row orders of W2 that give columns `order` [h]: known ones, but no shifts."""
    rows = torch.arange(len(order))[None]
    for edit in EDITS:
        fits = edit.fits("down_bias", rows) and "shifted" not in edit.name
        if fits and torch.equal(edit.apply(rows)[0], order):
            yield edit.name


def _added(output: Output) -> Iterator[_Told]:
    told = output.truth + output.hidden_states
    if output.gives(told, output.allowed):
        yield "the hidden states are added to the output", told, output.allowed


def _leaked(output: Output) -> Iterator[_Told]:
    """A part of a neighbour's row in each row."""
    found, truth = output.found, output.truth
    if len(truth) < _FEWEST_LIMITED:
        return
    weight = 1 / output.allowed.clamp(min=torch.finfo(torch.float64).tiny) ** 2
    for by, whose in ((1, "token n - 1"), (-1, "token n + 1")):
        other = truth.roll(by, 0)
        other[0 if by > 0 else -1] = 0
        size = float((weight * other**2).sum())
        part = float((weight * (found - truth) * other).sum()) / size if size else 0.0
        told, room = truth + part * other, output.allowed * (1 + abs(part))
        if part and output.gives(told, room):
            words = f"about {part:.1g} times the output of {whose} added to each token"
            yield words, told, room


def _former(output: Output) -> Iterator[_Told]:
    bad = output.bad()
    rows, columns = bad.any(dim=1, keepdim=True), bad.any(dim=0)
    if not bad.any() or not output.former:
        return
    # Its own numbers were others, or the two calls do not tell anything.
    apart = (output.former[-1] - output.truth).abs() > output.allowed
    if apart[bad].double().mean() < _APART:
        return
    where = "" if rows.all() and columns.all() else f", in {damage(bad)}"
    gave, should = output.former[0], output.former[-1]
    # What is always the same looks as if it stayed.
    wrong_too = ((gave - should).abs() > output.allowed)[bad]
    constant = bool(wrong_too.double().mean() > _APART)
    for words, more in (
        ("the output of the former call stays", torch.zeros_like(output.truth)),
        ("added to the output of the former call", output.truth),
    ):
        for former in output.former:
            same = constant and former is gave and "stays" in words
            kept = torch.where(rows & columns, former, 0)
            told = torch.where(rows & columns, kept + more, output.truth)
            # Next to nothing is near to whatever else is next to nothing.
            told_apart = (output.found - told).norm() <= kept.norm() / 2
            if kept.any() and told_apart and output.gives(told, output.allowed):
                said = _SAME if same else words
                yield said + where, told, output.allowed


_SAME = (
    "the same numbers for other hidden states, and wrong for those too: never written, "
    "or written over"
)


def _stored(output: Output) -> Iterator[_Told]:
    """Every number is one of a coarser format, and near enough for it."""
    finest = torch.finfo(output.arithmetic.output).eps
    for name, dtype in FORMATS.items():
        eps = torch.finfo(dtype).eps
        if eps > finest and torch.equal(
            through(output.found, dtype=dtype), output.found
        ):
            # Below the smallest normal number they are equally far apart.
            subnormal = torch.finfo(dtype).smallest_normal * eps
            step = half_ulp(output.found, dtype) * 2
            room = output.allowed + step.clamp(min=subnormal)
            if bool(((output.found - output.truth).abs() <= room).all()):
                yield f"output rounded to {name}", output.found, output.allowed


# Coarser formats than that of an output, which it may pass on its way.
FORMATS = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float8 (E4M3)": torch.float8_e4m3fn,
    "float8 (E5M2)": torch.float8_e5m2,
}


def _cut(output: Output) -> Iterator[_Told]:
    """A rounding of the output itself that is not to nearest."""
    for name, dtype in (("bfloat16", torch.bfloat16), ("float16", torch.float16)):
        ulp = 2 * half_ulp(output.truth, dtype)
        for words, toward in (
            ("cut, not rounded", -output.truth.sign() / 2),
            ("rounded away from 0", output.truth.sign() / 2),
            ("rounded down", -torch.ones_like(ulp) / 2),
            ("rounded up", torch.ones_like(ulp) / 2),
        ):
            told = output.truth + toward * ulp
            if output.gives(told, output.allowed):
                yield f"output {words} to {name}", told, output.allowed
