"""A step of a layer made otherwise: how a number is stored, a bias, a weight.

What is stored in another format is rounded the same way here: such a hypothesis is
right or wrong down to the bound, like any other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch

from mxmoe.conformance.why_numbers.expert_content import Otherwise
from mxmoe.conformance.why_numbers.layer_steps import Steps
from mxmoe.conformance.why_numbers.layer_steps import clamped
from mxmoe.conformance.why_numbers.layer_steps import gated
from mxmoe.conformance.why_numbers.layer_steps import through
from mxmoe.conformance.why_numbers.otherwise.gate_pairs import columns_otherwise
from mxmoe.conformance.why_numbers.otherwise.lanes import lanes_otherwise
from mxmoe.conformance.why_numbers.otherwise.split_sums import sums_otherwise
from mxmoe.conformance.why_numbers.otherwise.stores import STORES
from mxmoe.conformance.why_numbers.otherwise.stores import to_nearest_tf32
from mxmoe.conformance.why_numbers.otherwise.stores import to_tf32
from mxmoe.reference.activation import split_halves
from mxmoe.reference.types import Activation

Tensor = torch.Tensor
_COARSER = ("quantised", "rounded to float8")


def steps_otherwise(blocks: Mapping[str, int] | None = None) -> Iterator[Otherwise]:
    """Every step that is known to be made otherwise somewhere.

    blocks : how many K blocks gate_up and down have; None for no sums in parts of K.
    """
    for name, steps in (*_steps(), *(sums_otherwise(blocks) if blocks else ())):
        yield Otherwise(name=name, steps=steps)


def _steps() -> Iterator[tuple[str, Steps]]:
    for what, store in STORES.items():
        yield f"hidden states {what}", Steps(x=store)
        yield f"result of GEMM1 {what}", Steps(z=store)
        yield f"intermediate {what}", Steps(act=store)
        yield f"each slot's result {what}", Steps(y=store)
        # What is made coarser behind the rounding of the class is rounded twice.
        if what.startswith(_COARSER):
            twice = partial(_twice, store=store)
            yield f"intermediate {what}", Steps(act=twice)
            yield f"each slot's result {what}", Steps(y=twice)
            for act in (store, twice):
                yield f"factors of both GEMMs {what}", Steps(x=store, act=act)
    for what, store in (
        ("cut to TF32", to_tf32),
        ("rounded to TF32", to_nearest_tf32),
        ("rounded to bfloat16", partial(through, dtype=torch.bfloat16)),
        ("rounded to float16", partial(through, dtype=torch.float16)),
    ):
        yield f"factors of both GEMMs {what}", Steps(x=store, act=store)
    for dtype in (torch.bfloat16, torch.float16):
        yield from _rounded_results(dtype)
    for name, one in _BIASES.items():
        yield name, Steps(gated=one)
    yield from lanes_otherwise()
    yield from columns_otherwise()
    yield "down bias added once a slot, not weighted", Steps(weighs_bias=False)
    yield "routing weight multiplies the input", Steps(weighs_input=True)


def _rounded_results(dtype: torch.dtype) -> Iterator[tuple[str, Steps]]:
    """Results of the GEMMs stored once, as a library's GEMM of that dtype stores them.

    The bias is added before the rounding, or behind it and the sum rounded again.
    """
    words = f"rounded to {str(dtype).removeprefix('torch.')}"
    store = partial(through, dtype=dtype)

    def fused(z: Tensor, bias: Tensor, a: Activation) -> Tensor:
        return gated(store(z + bias), torch.zeros_like(bias), a)

    yield f"gate_up {words} with its bias", Steps(gated=fused)
    yield f"gate_up {words}, and again with its bias", Steps(z=store, gated=fused)
    yield f"result of GEMM2 {words} before its bias", Steps(v=store)
    yield f"results of both GEMMs {words}", Steps(z=store, v=store)
    both = Steps(gated=fused, y=store)
    yield f"gate_up and each slot's result {words} with their biases", both
    both = replace(both, z=store, v=store)
    yield f"results of both GEMMs {words}, and again with their biases", both


def _late_bias(z: Tensor, bias: Tensor, a: Activation) -> Tensor:
    gate, up = clamped(*split_halves(z), a)
    by_gate, by_up = split_halves(bias)
    open_ended = replace(a, limit=math.inf)
    both = torch.stack((gate + by_gate, up + by_up), dim=-1).flatten(-2)
    return gated(both, torch.zeros_like(bias), open_ended)


def _half_bias(z: Tensor, bias: Tensor, a: Activation, *, half: int) -> Tensor:
    kept = bias.clone()
    kept[1 - half :: 2] = 0
    return gated(z, kept, a)


def _bias_behind(z: Tensor, bias: Tensor, a: Activation, *, half: int) -> Tensor:
    return gated(z, torch.zeros_like(bias), a) + bias[half::2]


def _bias_of_halves(z: Tensor, bias: Tensor, a: Activation) -> Tensor:
    return gated(z, torch.stack(bias.chunk(2), dim=-1).flatten(), a)


def _bias_of(z: Tensor, bias: Tensor, a: Activation, *, half: int) -> Tensor:
    """With the bias of one half for both."""
    return gated(z, bias[half::2].repeat_interleave(2), a)


_BIASES: dict[str, Callable[[Tensor, Tensor, Activation], Tensor]] = {
    "gate_up bias added behind the clamps": _late_bias,
    "gate_up bias added to the gate half only": partial(_half_bias, half=0),
    "gate_up bias added to the up half only": partial(_half_bias, half=1),
    "gate_up bias added to the activation's output, from the gate half": partial(
        _bias_behind, half=0
    ),
    "gate_up bias with gate and up taken as halves": _bias_of_halves,
    "the gate's bias added to gate and up": partial(_bias_of, half=0),
    "the up half's bias added to gate and up": partial(_bias_of, half=1),
}


def _twice(x: Tensor, *, store: Callable[[Tensor], Tensor]) -> Tensor:
    return store(through(x, dtype=torch.bfloat16))
