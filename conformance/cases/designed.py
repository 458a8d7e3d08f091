"""The tensors of a case, designed so that faults show.

Always: block scales that vary along rows and columns, biases as large as the
GEMM output, pre-activations on both sides of both clamps, unequal routing
weights, and every expert visited as soon as t*k >= e. Hot spots add the rest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch

from mxmoe.conformance.cases.case import Case
from mxmoe.reference.errors import BadInput
from mxmoe.reference.types import BLOCK
from mxmoe.reference.types import BLOCK_BYTES
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Routing

# Root mean square of the 16 E2M1 values: sqrt(2 * 68.5 / 16) with
# 68.5 = 0.5**2 + 1 + 1.5**2 + 2**2 + 3**2 + 4**2 + 6**2.
_RMS_E2M1 = math.sqrt(2 * 68.5 / 16)
# Standard deviation wanted for pre-activations: the clamps at 7 lie at 1.75 of it,
# so that each side of each clamp gets about 4 % of the lanes.
_GATE_UP_STD = 4.0
_SATURATED_STD = 24.0
# act = gate' * sigmoid * (up' + 1) has about this rms for such pre-activations.
_ACTIVATION_RMS = 14.0
_DOWN_STD = 4.0
# Elements between two rows of a "strided" case.
_GAP = 8


@dataclass(frozen=True, kw_only=True)
class CaseData:
    """What the case describes, on the CPU: weights whole, routing global."""

    config: MoEConfig
    weights: ExpertWeights
    hidden_states: torch.Tensor
    routing: Routing
    experts_reached: int


def make_case_data(
    case: Case,
    *,
    hidden_dtype: torch.dtype = torch.bfloat16,
    layer_weights: tuple[MoEConfig, ExpertWeights] | None = None,
) -> CaseData:
    """Build the tensors of `case`; `layer_weights` serves cases that name a layer."""
    if case.config is not None:
        config, weights = case.config, make_weights(case.config, case.seed, case.hot)
    elif layer_weights is not None:
        config, weights = layer_weights
    else:
        raise BadInput(f"case {case}: expected a checkpoint, found none")
    # A stream of its own, so that tokens do not change the weights.
    random = np.random.default_rng((case.seed, 1))
    hidden = _hidden_states(random, case, config).to(hidden_dtype)
    routing = make_routing(random, case, config)
    reached = routing.ids[routing.ids >= 0].unique().numel()
    return CaseData(
        config=config,
        weights=weights,
        hidden_states=hidden,
        routing=routing,
        experts_reached=reached,
    )


def on_device(case: Case, data: CaseData, device: torch.device) -> CaseData:
    """The input of a forward pass on `device`; "strided" cases get their gaps there.

    A copy: what a candidate writes into its input must not reach the truth.
    """
    ids, weights = data.routing.ids, data.routing.weights
    hidden, ids, weights = (
        x.to(device, copy=True) for x in (data.hidden_states, ids, weights)
    )
    if "strided" in case.hot:
        hidden, ids, weights = map(_with_gaps, (hidden, ids, weights))
    return replace(data, hidden_states=hidden, routing=Routing(ids, weights))


def make_weights(
    config: MoEConfig, seed: int, hot: tuple[str, ...] = ()
) -> ExpertWeights:
    """Random weights of one layer in checkpoint order."""
    random = np.random.default_rng((seed, 0))
    e, h, i = config.experts, config.hidden, config.intermediate
    std = _SATURATED_STD if "saturated" in hot else _GATE_UP_STD
    gate_up = std / (math.sqrt(h) * _RMS_E2M1)
    down = _DOWN_STD / (math.sqrt(i) * _RMS_E2M1 * _ACTIVATION_RMS)
    w1_blocks, w1_scales = _matrix(random, (e, 2 * i, h // BLOCK), gate_up)
    w2_blocks, w2_scales = _matrix(random, (e, h, i // BLOCK), down)
    if "zero_scale" in hot:
        for blocks, scales in ((w1_blocks, w1_scales), (w2_blocks, w2_scales)):
            scales[random.random(scales.shape) < 0.1] = 0x00
            blocks[random.random(scales.shape) < 0.1] = 0x00
    if "cancellation" in hot:
        w1_blocks[:, :, -1], w1_scales[:, :, -1] = (
            w1_blocks[:, :, 0],
            w1_scales[:, :, 0],
        )
    weights = ExpertWeights(
        gate_up_blocks=torch.from_numpy(w1_blocks),
        gate_up_scales=torch.from_numpy(w1_scales),
        gate_up_bias=_normal(random, (e, 2 * i), _GATE_UP_STD).to(torch.bfloat16),
        down_blocks=torch.from_numpy(w2_blocks),
        down_scales=torch.from_numpy(w2_scales),
        down_bias=_normal(random, (e, h), _DOWN_STD).to(torch.bfloat16),
        router_weight=_normal(random, (e, h), 2 / math.sqrt(h)).to(torch.bfloat16),
        router_bias=_normal(random, (e,), 0.5).to(torch.bfloat16),
    )
    if config.has_bias:
        return weights
    return replace(weights, gate_up_bias=None, down_bias=None, router_bias=None)


@lru_cache(maxsize=1)
def any_bytes(config: MoEConfig, seed: int) -> ExpertWeights:
    """Weights for layouts, which look at no value: every block and scale byte occurs.

    Biases are normal numbers and +-0: a float32 that is not may be spelled otherwise
    by an honest division by tp. Kept for the next tensor or rank of the same layer.
    """
    random = np.random.default_rng((seed, 4))
    e, h, i = config.experts, config.hidden, config.intermediate

    def draw(*shape: int) -> torch.Tensor:
        return torch.from_numpy(random.integers(0, 256, shape, dtype=np.uint8))

    def bias(*shape: int) -> torch.Tensor:
        bits = torch.from_numpy(random.integers(0, 2**16, shape))
        # Any sign and mantissa; biased exponents from 64 to 191.
        bits = (bits & 0x807F) | (0x2000 + (bits & 0x3F80))
        bits[torch.from_numpy(random.random(shape) < 0.1)] &= 0x8000
        return bits.to(torch.uint16).view(torch.bfloat16)

    return ExpertWeights(
        gate_up_blocks=draw(e, 2 * i, h // BLOCK, BLOCK_BYTES),
        gate_up_scales=draw(e, 2 * i, h // BLOCK),
        gate_up_bias=bias(e, 2 * i) if config.has_bias else None,
        down_blocks=draw(e, h, i // BLOCK, BLOCK_BYTES),
        down_scales=draw(e, h, i // BLOCK),
        down_bias=bias(e, h) if config.has_bias else None,
        router_weight=torch.zeros(e, h, dtype=torch.bfloat16),
        router_bias=torch.zeros(e, dtype=torch.bfloat16) if config.has_bias else None,
    )


def make_routing(random: np.random.Generator, case: Case, config: MoEConfig) -> Routing:
    """Distinct experts for each token; the first tokens walk through all of them."""
    t, k, e = case.tokens, config.top_k, config.experts
    order = random.permutation(e)
    ranks = random.random((t, e))
    walking = min(t, -(-e // k))
    for token in range(walking):
        ranks[token, order[(token * k + np.arange(k)) % e]] += 1
    if "silent_expert" in case.hot and e > k:
        ranks[:, 0] = -1
    ids = np.argsort(-ranks, axis=1, kind="stable")[:, :k]
    if "one_route" in case.hot and t:
        ids = np.repeat(ids[:1], t, axis=0)
    logits = torch.from_numpy(random.standard_normal((t, k)) * 1.5)
    weights = torch.softmax(logits, dim=1).float() * config.routed_scaling
    routing = Routing(torch.from_numpy(ids.astype(np.int32)), weights)
    if "no_expert" in case.hot:
        dropped = torch.from_numpy(random.random((t, k)) < 0.3)
        routing.ids[dropped] = -1
        routing.weights[dropped] = 1000.0
    return routing


def _hidden_states(
    random: np.random.Generator, case: Case, config: MoEConfig
) -> torch.Tensor:
    hidden = random.standard_normal((case.tokens, config.hidden))
    if "cancellation" in case.hot and case.config is not None:
        # `make_weights` made the first and last K block equal, so this adds nothing
        # to the truth; an accumulator of 8 significant bits loses the rest.
        hidden[:, 0] += 256
        hidden[:, -BLOCK] -= 256
    if "wide_hidden" in case.hot:
        hidden[:, config.hidden // 2] = 2.0**17
    return torch.from_numpy(hidden)


def _matrix(
    random: np.random.Generator, shape: tuple[int, int, int], scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """Random codes [e, rows, g, 16], biased exponents [e, rows, g] around `scale`."""
    e, rows, g = shape
    blocks = random.integers(0, 256, (e, rows, g, BLOCK_BYTES), dtype=np.uint8)
    center = 127 + round(math.log2(scale))
    by_row = random.integers(-1, 2, (e, rows, 1))
    by_column = random.integers(-1, 2, (e, 1, g))
    own = random.integers(-1, 1, (e, rows, g))
    return blocks, (center + by_row + by_column + own).astype(np.uint8)


def _normal(
    random: np.random.Generator, shape: tuple[int, ...], std: float
) -> torch.Tensor:
    return torch.from_numpy(random.standard_normal(shape) * std)


def tokens_of_gaps(tokens: int, width: int) -> torch.Tensor:
    """bool [t]: the rows that hold a gap, if rows of a "strided" case are read as if
    there were none between them."""
    at = torch.arange(tokens * width).reshape(tokens, width)
    return (at % (width + _GAP) >= width).any(dim=1)


def as_packed(tensor: torch.Tensor) -> torch.Tensor:
    """What a "strided" [t, width] gives if it is read as if no gaps were there."""
    return _with_gaps(tensor).as_strided(tensor.shape, (tensor.shape[1], 1)).clone()


def _with_gaps(tensor: torch.Tensor) -> torch.Tensor:
    """The same values as a view with a wider row stride; the gaps hold 0xFF bytes."""
    t, width = tensor.shape
    wide = torch.empty(t, width + _GAP, dtype=tensor.dtype, device=tensor.device)
    wide.view(torch.uint8).fill_(0xFF)
    wide[:, :width] = tensor
    return wide[:, :width]
