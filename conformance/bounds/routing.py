"""How far honest routing weights may be from the softmax of the chosen logits."""

from __future__ import annotations

import torch

from mxmoe.conformance.bounds.propagated import U_FLOAT32
from mxmoe.conformance.bounds.propagated import half_ulp

# exp in float32 with an argument rounded once: 2 units in the last place for a fast
# exp2, then one rounding each for the sum's terms and the quotient.
_OPERATIONS = 8


def weight_bound(
    chosen: torch.Tensor, weights: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """Allowed |error| of softmax weights computed in float32 and stored in `dtype`.

    chosen : logits [t, k] of the experts chosen. weights : their exact softmax.
    exp(c - max) has a relative error of |c - max| * 2u from the rounded argument
    (subtraction, multiplication by log2 e) and of a few u from exp; the sum and the
    quotient inherit at most the largest of the row. Float32 underflow is allowed.
    """
    distance = chosen.amax(dim=1, keepdim=True) - chosen
    # Far terms hardly enter the sum: their share of its error is weighted.
    row = (weights * distance).sum(dim=1, keepdim=True)
    k = chosen.shape[1]
    relative = U_FLOAT32 * (2 * distance + 2 * row + _OPERATIONS + k)
    error = relative * weights + 2.0**-126
    return error + half_ulp(weights + error, dtype)
