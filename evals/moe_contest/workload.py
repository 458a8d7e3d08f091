"""The layer and the tokens that every contestant gets, and the least work they are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from dataclasses import replace

import numpy as np
import torch

from mxmoe.conformance.bounds.fused import clear_choices
from mxmoe.conformance.cases.designed import make_weights
from mxmoe.evals.moe_contest.ceilings import Ceilings
from mxmoe.reference.errors import BadInput
from mxmoe.reference.types import ARITHMETIC
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig

# Logits are x . w + b, with standard deviations 2 and 1.7. The bias makes some experts
# popular, as in a trained router: of 128 experts with top-4 the first 16, 64, 512 and
# 8192 tokens touch about 31, 56, 94 and 118; without it 50, 109, 128 and 128.
_LOGIT_STD = 2.0
_BIAS_STD = 1.7
# A stream of its own beside those of `make_weights`.
_STREAM = 6
# Batches drawn for tokens with a clear choice of experts; one or two are enough.
_DRAWS = 20


@dataclass(frozen=True, kw_only=True)
class Load:
    """The least that any implementation does for one batch.

    experts : distinct ones that the batch visits. weight_bytes : theirs as MXFP4,
    blocks, scales and biases without padding. flops : of the two GEMMs.
    """

    tokens: int
    experts: int
    weight_bytes: int
    flops: int

    def floor_seconds(self, ceilings: Ceilings) -> float:
        """Reading the weights once, or multiplying: whichever takes longer."""
        return max(
            self.weight_bytes / ceilings.copy_bytes_per_second,
            self.flops / ceilings.matmul_flops_per_second,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Workload:
    """One layer on the device, and one batch [t, h] in bfloat16.

    A smaller batch is its first tokens. ids : int64 [t, k], the experts that every
    right implementation chooses.
    """

    config: MoEConfig
    weights: ExpertWeights
    hidden_states: torch.Tensor
    ids: torch.Tensor

    def load(self, tokens: int) -> Load:
        """Of the first `tokens` tokens."""
        c, w = self.config, self.weights
        experts = self.ids[:tokens].unique().numel()
        tensors = [w.gate_up_blocks, w.gate_up_scales, w.down_blocks, w.down_scales]
        tensors += [b for b in (w.gate_up_bias, w.down_bias) if b is not None]
        each = sum(tensor.nbytes for tensor in tensors) // c.experts
        return Load(
            tokens=tokens,
            experts=experts,
            weight_bytes=experts * each,
            flops=2 * tokens * c.top_k * 3 * c.hidden * c.intermediate,
        )


def make_workload(
    config: MoEConfig, tokens: int, seed: int, device: torch.device
) -> Workload:
    """Random, the same for the same seed; outputs are of order 1.

    Tokens whose choice of experts is a matter of rounding are drawn again: all
    contestants then visit the same experts, and every token can be judged.
    """
    random = np.random.default_rng((seed, _STREAM))
    e, h = config.experts, config.hidden

    def normal(std: float, *shape: int) -> torch.Tensor:
        values = random.standard_normal(shape, dtype=np.float32) * std
        return torch.from_numpy(values).to(torch.bfloat16)

    weights = replace(
        make_weights(config, seed),
        router_weight=normal(_LOGIT_STD / math.sqrt(h), e, h),
        router_bias=normal(_BIAS_STD, e),
    ).to(device)
    drawn: list[torch.Tensor] = []
    ids: list[torch.Tensor] = []
    for _ in range(_DRAWS):
        x = normal(1.0, tokens, h).to(device)
        choices = clear_choices(weights, config, x, ARITHMETIC["w4a16_fp32acc"])
        drawn.append(x[choices.clear])
        ids.append(choices.routing.ids)
        if sum(map(len, ids)) >= tokens:
            break
    else:
        raise BadInput(
            f"experts: expected a shape whose router makes clear choices, found "
            f"{config.label()}, where {_DRAWS} draws of {tokens} tokens have too few"
        )
    return Workload(
        config=config,
        weights=weights,
        hidden_states=torch.cat(drawn)[:tokens],
        ids=torch.cat(ids)[:tokens],
    )
