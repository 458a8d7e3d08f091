"""Which experts another `route` would choose of the same logits."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from mxmoe.conformance.why_numbers.moved import ranges

Tensor = torch.Tensor

SHORT = ((torch.bfloat16, "bfloat16", 2.0**-9), (torch.float16, "float16", 2.0**-12))
"""Formats that a softmax may be computed in by mistake, and u: 8 and 11 bits."""

# Groups of experts, and how many of them are kept.
_GROUPS, _KEPT = (2, 4, 8), (1, 2, 4)


def _pairs_as_one(logits: Tensor) -> Tensor | None:
    """[t, e], each row's pairs twice, or None of logits that hold none."""
    if logits.dtype != torch.bfloat16 or logits.shape[1] % 2:
        return None
    half = logits.contiguous().view(torch.float32).double()
    return torch.cat((half, half), dim=1)


def other_logits(given: Tensor, top_k: int) -> Iterator[tuple[str, Tensor]]:
    """Names, and the values [t, e] that are compared in place of the logits."""
    logits = given.double()
    if (pairs := _pairs_as_one(given)) is not None:
        yield "bfloat16 bits read as float32, two logits at a time", pairs
    for dtype, name, _ in SHORT:
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
    for expert in (experts - 1, 0) if experts > top_k else ():
        edited = logits.clone()
        edited[:, expert] = -torch.inf
        yield f"expert {expert} never chosen", edited
    yield from _by_groups(logits, top_k)
    for by, whose in ((-1, "next"), (1, "previous")):
        yield f"the choice of the {whose} token", logits.roll(by, 0)


def other_ids(best: Tensor, logits: Tensor, top_k: int) -> Iterator[tuple[str, Tensor]]:
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
            yield (
                f"experts padded to {padded} with logits of 0",
                first_places(more, top_k),
            )


def first_places(values: Tensor, count: int) -> Tensor:
    """Places of the largest values; of equal ones, the lowest place first."""
    return values.sort(dim=1, descending=True, stable=True).indices[:, :count]


def never_chosen(logits: Tensor, ids: Tensor) -> Iterator[tuple[str, Tensor]]:
    """As `other_logits`, without the experts that none of `ids` [t, k] is."""
    experts = logits.shape[1]
    chosen = torch.zeros(experts, dtype=torch.bool)
    chosen[ids[(ids >= 0) & (ids < experts)]] = True
    if not chosen.all():
        edited = logits.double().masked_fill(~chosen, -torch.inf)
        yield f"{ranges('expert', ~chosen)} never chosen", edited


def _by_groups(logits: Tensor, top_k: int) -> Iterator[tuple[str, Tensor]]:
    """As many of each group of experts, or only those of the best groups."""
    for groups in _GROUPS:
        if logits.shape[1] % groups:
            continue
        parts = logits.unflatten(1, (groups, -1))
        if top_k % groups == 0 and parts.shape[2] >= top_k // groups:
            places = first_places(parts.flatten(0, 1), top_k // groups)
            kept = torch.zeros_like(parts.flatten(0, 1), dtype=torch.bool)
            kept.scatter_(1, places, True)
            each = logits.masked_fill(~kept.reshape(logits.shape), -torch.inf)
            words = (
                f"the {top_k // groups} largest of each of {groups} groups of experts"
            )
            yield f"{words} chosen", each
        for most in _KEPT:
            if most < groups and most * parts.shape[2] >= top_k:
                best = first_places(parts.amax(dim=2), most)
                inside = torch.zeros(len(logits), groups, dtype=torch.bool)
                inside.scatter_(1, best, True)
                limited = parts.masked_fill(~inside[..., None], -torch.inf).flatten(1)
                words = f"only experts of the best {most} of {groups} groups"
                yield f"{words} can be chosen", limited
