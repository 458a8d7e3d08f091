"""Why an output is wrong: the weights with which the biases of its slots were added.

The down bias belongs inside of the routing weight. What is left of each token is fitted
by the biases of its slots: a handful of unknowns to h numbers.
"""

from __future__ import annotations

import torch

from mxmoe.conformance.bounds.propagated import half_ulp
from mxmoe.conformance.why_numbers.honest_size import part_left
from mxmoe.conformance.why_numbers.layer_steps import Fit
from mxmoe.conformance.why_numbers.otherwise.one_thing import Wrong

Tensor = torch.Tensor
_TINY = torch.finfo(torch.float64).tiny
# Fitted weights are named if they are as near as that to simple ones.
_TOLD = 0.03


def explain_biases(wrong: Wrong) -> list[Fit]:
    """The weights of the down biases, if other ones make the output right."""
    experts = wrong.experts
    s, given = experts.situation, experts.weights
    if s.part.down_bias is None or not wrong.found.isfinite().all():
        return []
    local = (s.routing.ids - experts.first).clamp(0, experts.count - 1).long()
    served = (given != 0).double()
    shares = s.part.down_bias.double() / s.shard.tp_size
    biases = shares[local] * served[..., None]
    size = wrong.allowed.clamp(min=_TINY)[:, None]
    inverse = torch.linalg.pinv((biases / size).mT)
    rest = wrong.found - wrong.right
    change = torch.einsum("tkh,th->tk", inverse, rest / size[:, 0])
    after = rest - torch.einsum("tk,tkh->th", change, biases)
    room = wrong.allowed + half_ulp(wrong.found, experts.arithmetic.output)
    told = bool((change.abs() > _TOLD).any())
    if not told or not bool((after.abs() <= room).all()):
        return []
    left = part_left(after, wrong.found - wrong.truth, wrong.allowed)
    return [Fit(_words((given + change) * served, served), left)]


def _words(weights: Tensor, served: Tensor) -> str:
    """What the fitted weights [t, k] are."""
    first = torch.zeros_like(served)
    first[:, 0] = served[:, 0]
    for words, simple in (
        ("once for each slot, not weighted", served),
        ("once for each token, that of its first slot, not weighted", first),
        ("with the mean of its slots' weights", served / served.shape[1]),
    ):
        if bool(((weights - simple).abs() <= _TOLD).all()):
            return f"down bias added {words}"
    shown = ", ".join(f"{w:.2g}" for w in weights[0].tolist())
    return f"down bias added with other weights than its slots, [{shown}] in token 0"
