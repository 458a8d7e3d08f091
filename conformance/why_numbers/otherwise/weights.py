"""Routing weights [t, k] of which something else was made before slots were added."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator

import torch

from mxmoe.conformance.why_numbers.expert_content import Otherwise

Tensor = torch.Tensor
_TINY = torch.finfo(torch.float64).tiny


def weights_otherwise(ids: Tensor, given: Tensor) -> Iterator[Otherwise]:
    """Every function below, and those of each slot's expert.

    ids : [t, k], global. given : [t, k], those of empty slots included.
    """
    k = ids.shape[1]
    if (ids < 0).any():
        total = given.double().sum(dim=1, keepdim=True).clamp(min=_TINY)
        yield Otherwise(
            name="routing weights normalised to a sum of 1, empty slots (-1) counted",
            weigh=lambda w: w / total,
        )
    for name, weigh in _FUNCTIONS.items():
        yield Otherwise(name=name, weigh=_where_served(weigh))
    for by in range(1, k):
        yield Otherwise(name=f"routing weights shifted by {by} slots", weigh=_roll(by))
    if k > 1:
        for slot, words in enumerate(("first", "second", "third", "fourth")[:k]):
            name = f"every slot has the weight of the {words}"
            yield Otherwise(name=name, weigh=_alike(slot))
        yield Otherwise(
            name="routing weights in the order of the expert ids",
            weigh=lambda w: w.gather(1, ids.argsort(dim=1)),
        )
        yield Otherwise(
            name="routing weights belong to the sorted expert ids",
            weigh=lambda w: w.gather(1, ids.argsort(dim=1).argsort(dim=1)),
        )


def _where_served(weigh: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda w: torch.where(w != 0, weigh(w), 0)


def _roll(by: int) -> Callable[[Tensor], Tensor]:
    return lambda w: w.roll(by, 1)


def _alike(slot: int) -> Callable[[Tensor], Tensor]:
    return lambda w: w[:, slot : slot + 1].expand_as(w)


def _normal(w: Tensor) -> Tensor:
    total = w.sum(dim=1, keepdim=True)
    return torch.where(total > 0, w / total, 0)


def _without_least(w: Tensor) -> Tensor:
    least = w.masked_fill(w == 0, torch.inf).amin(dim=1, keepdim=True)
    return w.masked_fill(w == least, 0)


def _first_only(w: Tensor) -> Tensor:
    kept = torch.zeros_like(w)
    kept[:, 0] = w[:, 0]
    return kept


_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "routing weights applied twice": torch.square,
    "routing weights applied three times": lambda w: w**3,
    "routing weights applied twice, then normalised to a sum of 1": lambda w: _normal(
        w.square()
    ),
    "square roots of the routing weights": torch.sqrt,
    "square roots of the routing weights, normalised to a sum of 1": lambda w: _normal(
        w.sqrt()
    ),
    "softmax of the routing weights, as if they were logits": lambda w: w.softmax(1),
    "sigmoid of the routing weights, as if they were logits": torch.sigmoid,
    "sigmoid of the routing weights, normalised to a sum of 1": lambda w: _normal(
        torch.where(w != 0, torch.sigmoid(w), 0)
    ),
    "exponentials of the routing weights": torch.exp,
    "routing weights normalised to a sum of 1": _normal,
    "routing weights over their largest": lambda w: w / w.amax(dim=1, keepdim=True),
    "routing weights normalised to a length of 1": lambda w: (
        w / w.norm(dim=1, keepdim=True)
    ),
    "routing weights divided by top_k": lambda w: w / w.shape[1],
    "routing weights times top_k": lambda w: w * w.shape[1],
    "routing weights inverted": lambda w: 1 / w,
    "left out: each token's slot with the smallest routing weight": _without_least,
    "left out: each token's slot with the smallest routing weight, the "
    "others normalised to a sum of 1": lambda w: _normal(_without_least(w)),
    "only the first slot added, with weight 1": lambda w: _normal(_first_only(w)),
    "only the slot with the largest routing weight added, with weight 1": lambda w: (
        w == w.amax(dim=1, keepdim=True)
    ).to(w.dtype),
    "routing weights in descending order": lambda w: (
        w.sort(dim=1, descending=True).values
    ),
    "routing weights in ascending order": lambda w: w.sort(dim=1).values,
    "routing weights of token 0 for every token": lambda w: w[:1].expand_as(w),
    "routing weights of the token before": lambda w: w.roll(1, 0),
    "routing weights of the next token": lambda w: w.roll(-1, 0),
    "routing weights of a column-major table": lambda w: w.T.reshape(w.shape),
    "routing weights rounded to bfloat16": lambda w: w.bfloat16().to(w.dtype),
    "routing weights cut to bfloat16": lambda w: _cut(w),
    "routing weights rounded to float8 (E4M3)": lambda w: w.to(torch.float8_e4m3fn).to(
        w.dtype
    ),
}


def _cut(w: Tensor) -> Tensor:
    bits = w.float().contiguous().view(torch.int32) & ~0xFFFF
    return bits.view(torch.float32).to(w.dtype)
