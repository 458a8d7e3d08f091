"""Faults of the field, planted in the trained model: each must move the score.

The seed of this suite is the first: a loader that pads the biases of trtllm-gen's
layout and leaves out its last steps, which put the rows into the kernel's order.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from dataclasses import replace

import torch

from mxmoe.evals.training.parameters import Parameters
from mxmoe.evals.training.shape import ModelShape
from mxmoe.reference.layouts.chain import Chain
from mxmoe.reference.layouts.trtllm_gen import trtllm_gen_chains
from mxmoe.reference.types import WHOLE
from mxmoe.reference.types import MoEConfig

Model = tuple[Parameters, ModelShape]
Plant = Callable[[Parameters, ModelShape], Model]
_W1, _B1, _B2 = ".gate_up_proj", ".gate_up_proj_bias", ".down_proj_bias"
# Steps at the end of the chain that the loader leaves out: gated interleave and row
# shuffle of fc1, row shuffle of fc2.
_LEFT_OUT = {_B1: ("fc1_bias", 2), _B2: ("fc2_bias", 1)}


def _changed(
    parameters: Parameters, ending: str, change: Callable[[torch.Tensor], torch.Tensor]
) -> Parameters:
    return {
        name: change(value) if name.endswith(ending) else value
        for name, value in parameters.items()
    }


def _bias_order(*endings: str) -> Plant:
    def plant(parameters: Parameters, shape: ModelShape) -> Model:
        for ending in endings:
            index = _order(shape, *_LEFT_OUT[ending]).to(
                next(iter(parameters.values())).device
            )
            parameters = _changed(
                parameters,
                ending,
                lambda bias, index=index: torch.where(  # type: ignore[misc]
                    index >= 0, bias[:, index.clamp(min=0)], 0
                ),
            )
        return parameters, shape

    return plant


def _order(shape: ModelShape, tensor: str, left_out: int) -> torch.Tensor:
    """The row that a kernel finds at each row, -1 for padding."""
    config = MoEConfig(
        hidden=shape.hidden,
        intermediate=shape.intermediate,
        experts=shape.experts,
        top_k=shape.top_k,
    )
    chain = trtllm_gen_chains(config, WHOLE)[tensor]
    assert isinstance(chain, Chain)
    rows = 2 * shape.intermediate if tensor == "fc1_bias" else shape.hidden
    index = torch.arange(rows)[:, None]
    for step in chain.steps[:-left_out]:
        index = step.apply(index)
    for step in reversed(chain.steps):
        index = step.undo(index)
    return index.flatten()


def _values(ending: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Plant:
    return lambda parameters, shape: (_changed(parameters, ending, change), shape)


def _no_clamp(parameters: Parameters, shape: ModelShape) -> Model:
    return parameters, replace(shape, limit=float("inf"))


def _swap_pairs(bias: torch.Tensor) -> torch.Tensor:
    return bias.unflatten(1, (-1, 2)).flip(2).flatten(1)


PLANTED: Mapping[str, Plant] = {
    "fc1 bias in another row order": _bias_order(_B1),
    "fc2 bias in another row order": _bias_order(_B2),
    "both biases in another row order": _bias_order(_B1, _B2),
    "gate and up bias swapped": _values(_B1, _swap_pairs),
    "fc2 bias added twice, as if not divided by tp = 2": _values(_B2, lambda b: 2 * b),
    "fc1 bias dropped": _values(_B1, torch.zeros_like),
    "fc2 bias dropped": _values(_B2, torch.zeros_like),
    "scale exponent one too large on fc1": _values(_W1, lambda w: 2 * w),
    "no clamp": _no_clamp,
}
