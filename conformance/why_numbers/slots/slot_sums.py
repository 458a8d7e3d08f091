"""Why an output is wrong: the slots of a token were added up in a short format.

Results that are added to an output in bfloat16 (a scatter of bfloat16, atomics) round
each sum, in an order that the kernel has: of the slots, or of their experts.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from functools import partial

import torch

from mxmoe.conformance.bounds.propagated import half_ulp
from mxmoe.conformance.why_numbers.honest_size import has_honest_size
from mxmoe.conformance.why_numbers.honest_size import honest_variance
from mxmoe.conformance.why_numbers.honest_size import part_left
from mxmoe.conformance.why_numbers.layer_steps import Fit
from mxmoe.conformance.why_numbers.layer_steps import through
from mxmoe.conformance.why_numbers.otherwise.one_thing import Wrong

Tensor = torch.Tensor

_FORMATS = (torch.bfloat16, torch.float16)


def explain_slot_sums(wrong: Wrong) -> list[Fit]:
    """The ways of adding slots up under which `wrong.found` is right."""
    if not wrong.found.isfinite().all():
        return []
    ids, dtype = wrong.experts.situation.routing.ids, wrong.experts.arithmetic.output
    right, fits = through(wrong.right, dtype=dtype), []
    for name, told in slot_sums(wrong.slots, ids, dtype):
        if torch.equal(through(told, dtype=dtype), right):
            continue
        rest = wrong.found - told
        near = rest.abs() <= wrong.allowed + half_ulp(told, dtype)
        if near.all() and has_honest_size(
            rest, honest_variance(told, wrong.allowed, dtype)
        ):
            left = part_left(rest, wrong.found - wrong.truth, wrong.allowed)
            fits.append(Fit(name, left))
    return fits


def slot_sums(
    slots: Tensor, ids: Tensor, output: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """(words, the sums [t, h] of `slots` [t, k, h] of experts `ids` [t, k]).

    output : what the sum is rounded to; shorter formats than that are asked.
    """
    for dtype in _FORMATS:
        if torch.finfo(dtype).eps < torch.finfo(output).eps:
            continue
        store = partial(through, dtype=dtype)
        name = str(dtype).removeprefix("torch.")
        words = f"each slot's weighted result rounded to {name}"
        yield words, store(slots).sum(dim=1)
        by_expert = ids.argsort(dim=1, stable=True)[..., None].expand_as(slots)
        ordered = slots.gather(1, by_expert)
        for order, terms in (
            ("slots", slots),
            ("slots, the last first", slots.flip(1)),
            ("expert ids", ordered),
            ("expert ids, the highest first", ordered.flip(1)),
        ):
            words = f"slots added up in {name}, in the order of {order}"
            yield words, _running(terms, store)
            words = (
                f"slots rounded to {name} and added up in it, in the order of {order}"
            )
            yield words, _running(store(terms), store)


def _running(terms: Tensor, store: Callable[[Tensor], Tensor]) -> Tensor:
    """The last sum is not stored: it is the output, which is rounded in any case."""
    total = terms[:, 0]
    for k in range(1, terms.shape[1]):
        total = store(total) + terms[:, k]
    return total
