"""Why an output is wrong: the routing of the former call is used again.

What is sorted or looked up (slots in order, experts of tiles) and kept by the shape of
a call is right as long as the ids stay.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from mxmoe.conformance.why_numbers.honest_size import has_honest_size
from mxmoe.conformance.why_numbers.honest_size import honest_variance
from mxmoe.conformance.why_numbers.honest_size import part_left
from mxmoe.conformance.why_numbers.layer_steps import Fit
from mxmoe.conformance.why_numbers.layer_steps import Situation
from mxmoe.conformance.why_numbers.slots.empty_slots import Former
from mxmoe.reference.types import Arithmetic
from mxmoe.reference.types import Routing

Tensor = torch.Tensor


def explain_former_routing(
    found: Tensor, truth: Tensor, s: Situation, arithmetic: Arithmetic, former: Former
) -> list[Fit]:
    """The part of the former routing under which `found` [t, h] is right.

    truth : [t, h], under the routing of this call.
    """
    before, now = former.routing, s.routing
    if before.ids.shape != now.ids.shape or not found.isfinite().all():
        return []
    fits = []
    for name, routing in (
        ("expert ids", Routing(before.ids, now.weights)),
        ("routing weights", Routing(now.ids, before.weights)),
        ("expert ids and routing weights", before),
    ):
        told, allowed = replace(s, routing=routing).judged(arithmetic)
        rest = found - told
        honest = honest_variance(told, allowed, arithmetic.output)
        if bool((rest.abs() <= allowed).all()) and has_honest_size(rest, honest):
            left = part_left(rest, found - truth, allowed)
            fits.append(Fit(f"{name} of the former call, for slots of this one", left))
    return fits
