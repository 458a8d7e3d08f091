"""What `forward_fused` may be off by: routing inside the op, away from ties.

A token whose k-th and next logit are closer than their error may honestly choose other
experts than the reference: it cannot be judged. The logits of all others err by at
most `logit_error`, and so do the routing weights, relatively, by `weight_error`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mxmoe.conformance.bounds.propagated import U_FLOAT32
from mxmoe.conformance.bounds.propagated import Judged
from mxmoe.conformance.bounds.propagated import dot_error
from mxmoe.conformance.bounds.propagated import half_ulp
from mxmoe.conformance.bounds.propagated import judge_rank
from mxmoe.reference.routing import route
from mxmoe.reference.routing import router_logits
from mxmoe.reference.types import WHOLE
from mxmoe.reference.types import Arithmetic
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Routing

# Softmax in float32 over k terms: the operations of `bounds.routing`, rounded up.
_SOFTMAX_UNITS = 64


@dataclass(frozen=True, eq=False)
class ClearChoices:
    """The tokens whose choice of experts is no matter of rounding.

    clear : bool [t], which tokens of the batch they are. routing : theirs, from logits
    in float64. logit_error : [clear tokens, 1], the largest of each over its experts.
    """

    clear: torch.Tensor
    routing: Routing
    logit_error: torch.Tensor

    def weight_error(self, dtype: torch.dtype) -> torch.Tensor:
        """Relative error [clear tokens, k] allowed of routing weights in `dtype`."""
        # exp turns an absolute error of the logits into a relative one of the weights,
        # once for the term and once for the sum.
        relative = torch.expm1(2 * self.logit_error) + _SOFTMAX_UNITS * U_FLOAT32
        if dtype != torch.float32:
            relative += torch.finfo(dtype).eps / 2
        return relative.expand(self.routing.ids.shape)


def clear_choices(
    weights: ExpertWeights,
    config: MoEConfig,
    hidden_states: torch.Tensor,
    arithmetic: Arithmetic,
) -> ClearChoices:
    """Route `hidden_states` [t, h]; leave out what `arithmetic` may route otherwise."""
    x, w = hidden_states.double(), weights.router_weight.double()
    logits = router_logits(x, w, weights.router_bias)
    square = torch.einsum("th,eh->te", x**2, w**2)
    error = dot_error(logits, square, config.hidden, arithmetic).allowed()
    error += U_FLOAT32 * logits.abs()
    # Kernels take logits in the dtype of the activations or in float32.
    error += half_ulp(logits.abs() + error, arithmetic.output)
    error = error.amax(dim=1, keepdim=True)
    ranked = logits.sort(dim=1, descending=True).values
    clear = torch.ones(len(logits), dtype=torch.bool, device=logits.device)
    if config.top_k < config.experts:
        gap = ranked[:, config.top_k - 1] - ranked[:, config.top_k]
        clear = gap > 2 * error[:, 0]
    routing = route(logits[clear], config.top_k, routed_scaling=config.routed_scaling)
    return ClearChoices(clear, routing, error[clear])


def judge_whole_layer(
    weights: ExpertWeights,
    config: MoEConfig,
    hidden_states: torch.Tensor,
    choices: ClearChoices,
    arithmetic: Arithmetic,
    routing_dtype: torch.dtype,
) -> Judged:
    """Truth and bounds of the clear tokens for one rank that holds the whole layer.

    All on the device of `weights`; routing_dtype : what the op takes weights in.
    """
    return judge_rank(
        weights,
        config,
        hidden_states[choices.clear],
        choices.routing,
        shard=WHOLE,
        arithmetic=arithmetic,
        routing_error=choices.weight_error(routing_dtype),
    )
