"""Numbers that a format or a field cannot hold: scales, weights, biases, inputs.

Scales of models lie around 2^-7, so that what happens far from there shows in no usual
case: an exponent that is limited, a number below the normal ones of float16 that is
taken for 0. Limits are looked for where the scales of the layer lie.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch

from mxmoe.conformance.why_numbers.expert_content import Experts
from mxmoe.conformance.why_numbers.expert_content import Matrix
from mxmoe.conformance.why_numbers.expert_content import Otherwise
from mxmoe.conformance.why_numbers.layer_steps import Steps
from mxmoe.conformance.why_numbers.layer_steps import through
from mxmoe.conformance.why_numbers.otherwise.contents import edited

Tensor = torch.Tensor
Store = Callable[[Tensor], Tensor]

_MATRICES = (("gate_up",), ("down",), ("gate_up", "down"))


def far_numbers(experts: Experts) -> Iterator[Otherwise]:
    """Every format and every limit, of gate_up, of down and of both."""
    for matrices in _MATRICES:
        words = " and ".join(matrices)
        for what, store in FORMATS.items():
            yield Otherwise(
                name=f"{words} scales {what}",
                edit=edited(partial(_scales, store), matrices),
            )
            yield Otherwise(
                name=f"{words} weights {what}",
                edit=edited(partial(_weights, store), matrices),
            )
            yield Otherwise(
                name=f"{words} bias {what}",
                edit=edited(partial(_bias, store), matrices),
            )
        for what, store in _limits(experts, matrices):
            yield Otherwise(
                name=f"{words} scales {what}",
                edit=edited(partial(_scales, store), matrices),
            )
    for what, store in FORMATS.items():
        yield Otherwise(name=f"hidden states {what}", steps=Steps(x=store))
        yield Otherwise(name=f"result of GEMM1 {what}", steps=Steps(z=store))
        yield Otherwise(name=f"intermediate {what}", steps=Steps(act=store))
        yield Otherwise(name=f"result of GEMM2 {what}", steps=Steps(v=store))
        yield Otherwise(name=f"each slot's result {what}", steps=Steps(y=store))
        yield Otherwise(name=f"routing weights {what}", weigh=store)


def _limits(experts: Experts, matrices: tuple[str, ...]) -> Iterator[tuple[str, Store]]:
    """Every exponent that a scale of the visited experts has, as a limit."""
    there = [
        getattr(experts.content(local), matrix).scales.flatten()
        for local in experts.visited()
        for matrix in matrices
    ]
    if not there:
        return
    for limit in torch.cat(there).unique().tolist():
        if limit:
            power = f"2^{torch.tensor(limit).log2().round().int()}"
            yield f"of at least {power}", partial(torch.clamp, min=limit)
            yield f"of at most {power}", partial(torch.clamp, max=limit)
            yield f"below {power} taken as 0", partial(flushed, smallest=limit)


def _scales(store: Store, m: Matrix) -> Matrix:
    return replace(m, scales=store(m.scales))


def _weights(store: Store, m: Matrix) -> Matrix:
    values = store(m.elements * m.scales[..., None])
    return replace(m, elements=values, scales=torch.ones_like(m.scales))


def _bias(store: Store, m: Matrix) -> Matrix:
    return replace(m, bias=store(m.bias))


def flushed(x: Tensor, smallest: float) -> Tensor:
    """With smaller numbers taken as 0."""
    return torch.where(x.abs() < smallest, 0.0, x)


def _normal_only(x: Tensor, dtype: torch.dtype) -> Tensor:
    return flushed(through(x, dtype=dtype), torch.finfo(dtype).smallest_normal)


def _formats() -> dict[str, Store]:
    found: dict[str, Store] = {}
    for name, dtype in (
        ("float16", torch.float16),
        ("float8 (E4M3)", torch.float8_e4m3fn),
        ("float8 (E5M2)", torch.float8_e5m2),
    ):
        found[f"rounded to {name}"] = partial(through, dtype=dtype)
        words = f"rounded to {name}, subnormal ones taken as 0"
        found[words] = partial(_normal_only, dtype=dtype)
    return found


FORMATS = _formats()
