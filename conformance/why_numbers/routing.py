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

Tensor = torch.Tensor

# Alternatives that are printed. Where more than twice as many fit, none says a thing.
_SHOWN = 3
# A factor closer to 1, of logits or weights, is not told from rounding.
_LEAST_STRETCH = 1e-3
_NAMED_STRETCHES = ((math.log(2), "exp2 in place of exp"),)
# u of the formats that a softmax may be computed in by mistake: 8 and 11 bits.
_SHORT = ((torch.bfloat16, "bfloat16", 2.0**-9), (torch.float16, "float16", 2.0**-12))


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
        for name, edited in _other_logits(logits)
        if _largest(ids[plain], edited[plain]).all()
    ]
    best = _first(values.nan_to_num(nan=-torch.inf), top_k + 1)
    names += [
        name
        for name, would in _other_ids(best, values, top_k)
        if torch.equal(ids.sort(1).values[plain], would.sort(1).values[plain])
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


def other_choices(logits: Tensor) -> Iterator[tuple[str, Tensor]]:
    """(words, the values [t, e] that are compared in place of finite logits)."""
    for name, edited in _other_logits(logits):
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
    yield from _equal_where_large(chosen, truth, found)
    by_id = logits.gather(1, ids.sort(1).values).softmax(1)
    yield "weights in the order of expert ids", by_id
    rising = truth.sort(1).values
    yield "weights from large to small, ids in another order", rising.flip(1)
    yield "weights from small to large", rising
    for by, whose in ((-1, "next"), (1, "previous")):
        yield f"weights of the {whose} slot", truth.roll(by, 1)
        yield f"weights of the {whose} token", truth.roll(by, 0)
    for dtype, name, _ in _SHORT:
        yield f"logits rounded to {name}", chosen.to(dtype).double().softmax(1)
    factor = float((found / truth).nanmedian())
    if math.isfinite(factor) and abs(factor - 1) > _LEAST_STRETCH:
        yield f"all weights times {factor:.4g}", factor * truth
    if (stretch := _stretch(chosen, truth, found)) is not None:
        close = (n for c, n in _NAMED_STRETCHES if abs(stretch / c - 1) < 1e-4)
        named = next(close, f"softmax of {stretch:.4g} times the logits")
        yield named, (stretch * chosen).softmax(1)


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
    for short, name, u in _SHORT:
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


def _pairs_as_one(logits: Tensor) -> Tensor | None:
    """[t, e], each row's pairs twice, or None of logits that hold none."""
    if logits.dtype != torch.bfloat16 or logits.shape[1] % 2:
        return None
    half = logits.contiguous().view(torch.float32).double()
    return torch.cat((half, half), dim=1)


def _other_logits(given: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Names, and the values [t, e] that are compared in place of the logits."""
    logits = given.double()
    if (pairs := _pairs_as_one(given)) is not None:
        yield "bfloat16 bits read as float32, two logits at a time", pairs
    for dtype, name, _ in _SHORT:
        yield f"chosen by logits rounded to {name}", logits.to(dtype).double()
    yield "chosen by the size of logits, whatever their sign", logits.abs()
    yield "the smallest logits chosen", -logits
    yield (
        "+Inf taken for the smallest",
        logits.masked_fill(logits == torch.inf, -torch.inf),
    )
    softmax = logits.float().softmax(1)
    yield "chosen by a float32 softmax of all, where small ones are 0", softmax.double()
    yield "chosen by a bfloat16 softmax of all", softmax.bfloat16().double()
    experts = logits.shape[1]
    for most in (2**n for n in range(1, experts.bit_length())):
        if most < experts:
            edited = logits.clone()
            edited[:, most:] = -torch.inf
            yield f"only the first {most} experts can be chosen", edited
    for by, whose in ((-1, "next"), (1, "previous")):
        yield f"the choice of the {whose} token", logits.roll(by, 0)


def _other_ids(
    best: Tensor, logits: Tensor, top_k: int
) -> Iterator[tuple[str, Tensor]]:
    """Names, and ids [t, k]; best : the k + 1 largest, or all."""
    ids = best[:, :top_k]
    zeros = ids.masked_fill(logits.gather(1, ids) < 0, 0)
    yield "a running maximum that starts at 0 and expert 0", zeros
    yield "the largest chosen for every slot", ids[:, :1].expand_as(ids)
    if best.shape[1] > top_k:
        yield "the largest left out", best[:, 1:]
    for by in (-1, 1):
        yield f"ids {by:+d}", ids + by
    experts = logits.shape[1]
    for padded in {-(-experts // 32) * 32, 1 << (experts - 1).bit_length()}:
        if padded > experts:
            more = torch.nn.functional.pad(logits, (0, padded - experts))
            yield f"experts padded to {padded} with logits of 0", _first(more, top_k)


def _first(values: Tensor, count: int) -> Tensor:
    """Places of the largest values; of equal ones, the lowest place first."""
    return values.sort(dim=1, descending=True, stable=True).indices[:, :count]


def _line(names: list[str]) -> list[str]:
    if not names or len(names) > 2 * _SHOWN:
        return []
    more = f"; or {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return [f"why    behaves as if: {'; or '.join(names[:_SHOWN])}{more}"]
