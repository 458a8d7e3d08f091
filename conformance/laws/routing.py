"""Laws of routing: what one answer of `route` says about another.

All logits are distinct and on a grid of 1/8, so that no honest order is open, and
adding a power of two is exact in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch

from mxmoe.reference.types import Routing

Tensor = torch.Tensor

_SHIFT = 64.0


@dataclass(frozen=True, kw_only=True)
class RoutingLaw:
    """One sentence; the ids hold exactly, the weights within their rounding.

    change : logits [t, e], a permutation of the tokens, one of the experts -> logits.
    expect : what the first routing says of the second.
    """

    statement: str
    change: Callable[[Tensor, Tensor, Tensor], Tensor]
    expect: Callable[[Routing, Tensor, Tensor], Routing]


def grid_logits(*, tokens: int, experts: int, seed: int) -> Tensor:
    """float32 [t, e]: multiples of 1/8 around 0, distinct within a row."""
    random = np.random.default_rng((seed, 6))
    steps = np.tile(np.arange(experts) - experts // 2, (tokens, 1))
    return torch.from_numpy(random.permuted(steps, axis=1) / 8).float()


ROUTING_LAWS: Mapping[str, RoutingLaw] = MappingProxyType(
    {
        "logits_shift": RoutingLaw(
            statement="adding a power of two to all logits changes nothing",
            change=lambda logits, tokens, experts: logits + _SHIFT,
            expect=lambda routing, tokens, experts: routing,
        ),
        "logits_tokens_permute": RoutingLaw(
            statement="permuting the rows of the logits permutes the rows",
            change=lambda logits, tokens, experts: logits[tokens],
            expect=lambda routing, tokens, experts: Routing(
                routing.ids[tokens], routing.weights[tokens]
            ),
        ),
        "logits_experts_permute": RoutingLaw(
            statement="permuting the columns of the logits permutes the ids",
            change=lambda logits, tokens, experts: logits[:, experts],
            expect=lambda routing, tokens, experts: Routing(
                experts.argsort()[routing.ids.long()], routing.weights
            ),
        ),
    }
)
"""By name, as in test ids."""
