"""What a wrong `route` does: other weights, or another choice, of the same logits.

A hypothesis says what it would have returned; it is named only if all that was found
is that, within the rounding of its arithmetic. Several mean that these logits cannot
tell them apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from mxmoe.conformance.bounds.propagated import U_FLOAT32
from mxmoe.conformance.bounds.propagated import half_ulp
from mxmoe.conformance.bounds.routing import weight_bound
from mxmoe.conformance.why_numbers.choices import SHORT
from mxmoe.conformance.why_numbers.choices import first_places
from mxmoe.conformance.why_numbers.choices import never_chosen
from mxmoe.conformance.why_numbers.choices import other_ids
from mxmoe.conformance.why_numbers.choices import other_logits
from mxmoe.conformance.why_numbers.moved import alternatives

Tensor = torch.Tensor

# Alternatives that are printed. Where more than twice as many fit, none says a thing.
_SHOWN = 3
# A factor closer to 1, of logits or weights, is not told from rounding.
_LEAST_STRETCH = 1e-3
_NAMED_STRETCHES = ((math.log(2), "exp2 in place of exp"),)
# A smaller number in a softmax's sum is not told from rounding.
_LEAST_ADDED = 1e-5
# What models limit logits to, by tanh.
_CAPS = (15.0, 20.0, 30.0, 50.0)


def why_weights(found: Tensor, logits: Tensor, ids: Tensor) -> list[str]:
    """The line for wrong weights [t, k] of the experts `ids`, or none.

    found : as returned. logits : [t, e], as they were given.
    """
    wide, weights = logits.double(), found.double()
    chosen = wide.gather(1, ids)
    names = [
        *(
            name
            for name, would in _other_weights(wide, ids, weights)
            if _is(weights, would, chosen, found.dtype, experts=logits.shape[1])
        ),
        *_roundings(weights, chosen, found.dtype),
    ]
    return _line(names)


def why_choice(found: Tensor, logits: Tensor, top_k: int) -> list[str]:
    """The line for wrong ids [t, k] of logits [t, e], or none."""
    values, ids = logits.double(), found.long()
    plain = ~values.isnan().any(dim=1)
    wrong = ~_largest(ids, values)
    if not wrong[plain].any():
        return _line(["only rows that hold NaN are wrong"])
    names = [
        name
        for name, edited in other_logits(logits, top_k)
        if _largest(ids[plain], edited[plain]).all()
    ]
    best = first_places(values.nan_to_num(nan=-torch.inf), top_k + 1)
    names += [
        name
        for name, would in other_ids(best, values, top_k)
        if torch.equal(ids.sort(1).values[plain], would.sort(1).values[plain])
    ]
    if not names:
        names = [
            name
            for name, edited in never_chosen(logits, ids)
            if _largest(ids[plain], edited[plain]).all()
        ]
    infinite = (values == torch.inf).any(dim=1)
    if not names and not wrong[plain & ~infinite].any():
        names = ["only rows that hold +Inf are wrong"]
    return _line(names)


def other_weights(logits: Tensor, ids: Tensor) -> Iterator[tuple[str, Tensor]]:
    """(words, weights [t, k] of the experts `ids`) that something else made."""
    truth = logits.gather(1, ids).softmax(dim=1)
    for name, would in _other_weights(logits, ids, truth):
        if would.isfinite().all():
            yield name, would


def other_choices(logits: Tensor, top_k: int) -> Iterator[tuple[str, Tensor]]:
    """(words, the values [t, e] that are compared in place of finite logits)."""
    for name, edited in other_logits(logits, top_k):
        if not torch.equal(edited, logits):
            yield name, edited


def _other_weights(
    logits: Tensor, ids: Tensor, found: Tensor
) -> Iterator[tuple[str, Tensor]]:
    """Names, and weights float64 [t, k]."""
    chosen = logits.gather(1, ids)
    truth = chosen.softmax(dim=1)
    of_all = logits.softmax(1).gather(1, ids)
    yield "softmax over all experts, not only the chosen", of_all
    sigmoids = chosen.sigmoid()
    yield "sigmoids, which are not made to sum to 1", sigmoids
    yield "sigmoids in place of the softmax", sigmoids / sigmoids.sum(1, keepdim=True)
    yield "logits divided by their sum", chosen / chosen.sum(1, keepdim=True)
    yield "equal weights", torch.full_like(truth, 1 / truth.shape[1])
    powers = chosen.float().exp()
    overflowing = (powers / powers.sum(1, keepdim=True)).double()
    yield "exp without subtracting the maximum, which overflows", overflowing
    yield from _softmax_of_other(chosen, of_all)
    yield from _with_sum_added(chosen, of_all, found)
    yield from _equal_where_large(chosen, truth, found)
    by_id = logits.gather(1, ids.sort(1).values).softmax(1)
    yield "weights in the order of expert ids", by_id
    rising = truth.sort(1).values
    yield "weights from large to small, ids in another order", rising.flip(1)
    yield "weights from small to large", rising
    for by, whose in ((-1, "next"), (1, "previous")):
        yield f"weights of the {whose} slot", truth.roll(by, 1)
        yield f"weights of the {whose} token", truth.roll(by, 0)
    for dtype, name, _ in SHORT:
        yield f"logits rounded to {name}", chosen.to(dtype).double().softmax(1)
    factor = float((found / truth).nanmedian())
    if math.isfinite(factor) and abs(factor - 1) > _LEAST_STRETCH:
        yield f"all weights times {factor:.4g}", factor * truth
    if (stretch := _stretch(chosen, truth, found)) is not None:
        close = (n for c, n in _NAMED_STRETCHES if abs(stretch / c - 1) < 1e-4)
        named = next(close, f"softmax of {stretch:.4g} times the logits")
        yield named, (stretch * chosen).softmax(1)


def _softmax_of_other(chosen: Tensor, of_all: Tensor) -> Iterator[tuple[str, Tensor]]:
    """A softmax of what is no logit any more."""
    for words, values in (
        ("sigmoids of the logits", chosen.sigmoid()),
        ("tanh of the logits", chosen.tanh()),
        ("logits below 0 taken as 0", chosen.relu()),
        ("the softmax over all experts", of_all),
        *((f"{c:g} tanh(logit / {c:g})", c * (chosen / c).tanh()) for c in _CAPS),
    ):
        yield f"softmax of {words}", values.softmax(1)


def _with_sum_added(
    chosen: Tensor, of_all: Tensor, found: Tensor
) -> Iterator[tuple[str, Tensor]]:
    """A softmax that is divided by its sum and a small number."""
    powers = (chosen - chosen.amax(dim=1, keepdim=True)).exp()
    for words, terms in (("", powers), (" of the softmax over all experts", of_all)):
        total = terms.sum(dim=1, keepdim=True)
        added = float((total * (1 / found.sum(dim=1, keepdim=True) - 1)).nanmedian())
        if math.isfinite(added) and added > _LEAST_ADDED:
            name = f"weights divided by their sum{words} + {added:.4g}"
            yield name, terms / (total + added)


def _equal_where_large(
    chosen: Tensor, truth: Tensor, found: Tensor
) -> Iterator[tuple[str, Tensor]]:
    """What an exp gives that is limited, where the maximum is not taken off first."""
    largest, share = chosen.amax(dim=1), 1 / truth.shape[1]
    equal = ((found - share).abs() <= _LEAST_STRETCH * share).all(dim=1)
    if not equal.any() or equal.all():
        return
    low, high = float(largest[~equal].max()), float(largest[equal].min())
    if low < high:
        words = f"whose largest logit is above a number from {low:.4g} to {high:.4g}"
        would = torch.where(equal[:, None], share, truth)
        yield f"equal weights in the rows {words}, as of an exp that is limited", would


def _stretch(chosen: Tensor, truth: Tensor, found: Tensor) -> float | None:
    """c such that `found` is nearest to the softmax of c times the logits."""
    # Tiny weights have few bits, or none, and say little of c.
    told = (found > 1e-6) & (truth > 1e-6)
    first = chosen.argmax(dim=1, keepdim=True)
    x = (chosen - chosen.gather(1, first))[told]
    y = (found / found.gather(1, first)).clamp(min=1e-30).log()[told]
    square = float((x * x).sum())
    if square == 0 or not math.isfinite(c := float((x * y).sum()) / square):
        return None
    return c if c > 0 and abs(c - 1) > _LEAST_STRETCH else None


def _is(
    found: Tensor, would: Tensor, chosen: Tensor, dtype: torch.dtype, *, experts: int
) -> bool:
    """Whether `found` is `would`, computed in float32 and stored in `dtype`."""
    # A sum over all experts has that many more roundings.
    allowed = weight_bound(chosen, would, dtype) + experts * U_FLOAT32 * would.abs()
    same = (found - would).abs() <= 2 * allowed
    return bool((same | (found.isnan() & would.isnan())).all())


def _roundings(found: Tensor, chosen: Tensor, dtype: torch.dtype) -> Iterator[str]:
    """Names of roundings that all the errors are no larger than."""
    truth = chosen.softmax(dim=1)
    error = (found - truth).abs()
    honest = weight_bound(chosen, truth, dtype)
    distance = chosen.amax(dim=1, keepdim=True) - chosen
    row, size = (truth * distance).sum(dim=1, keepdim=True), chosen.abs()
    for short, name, u in SHORT:
        if not torch.equal(found.to(short).double(), found):
            continue
        if (error <= honest + half_ulp(truth + honest, short)).all():
            yield f"weights rounded to {name}"
            continue
        # The logits, x - max, its exp, the sum and the quotient, each rounded; see
        # weight_bound.
        steps = size + size.amax(1, keepdim=True) + distance + row + 3 + truth.shape[1]
        if (error <= u * steps * truth + honest).all():
            yield f"softmax computed in {name}"


def _largest(ids: Tensor, values: Tensor) -> Tensor:
    """bool [t]: whether the ids are distinct and those of the largest values."""
    inside = (ids >= 0) & (ids < values.shape[1])
    kept = ids.clamp(0, values.shape[1] - 1)
    ordered = kept.sort(1).values
    distinct = (ordered[:, 1:] != ordered[:, :-1]).all(dim=1)
    chosen = values.gather(1, kept).sort(1, descending=True).values
    best = values.topk(ids.shape[1], dim=1).values
    return inside.all(dim=1) & distinct & (chosen == best).all(dim=1)


def _line(found: list[str]) -> list[str]:
    names = list(dict.fromkeys(found))
    if not names or len(names) > 2 * _SHOWN:
        return []
    return [f"why    behaves as if: {alternatives(names, _SHOWN)}"]
