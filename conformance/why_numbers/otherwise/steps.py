"""A step of a layer made otherwise: how a number is stored, where K ends, a bias.

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

from mxmoe.conformance.bounds.propagated import half_ulp
from mxmoe.conformance.why_numbers.expert_content import Otherwise
from mxmoe.conformance.why_numbers.layer_steps import Steps
from mxmoe.conformance.why_numbers.layer_steps import clamped
from mxmoe.conformance.why_numbers.layer_steps import gated
from mxmoe.conformance.why_numbers.layer_steps import through
from mxmoe.conformance.why_numbers.otherwise.split_sums import sums_otherwise
from mxmoe.reference.activation import split_halves
from mxmoe.reference.types import Activation

Tensor = torch.Tensor
_FLOAT16 = 65504.0
_FLOAT8 = torch.finfo(torch.float8_e4m3fn).max
_COARSER = ("quantised", "rounded to float8")
_TINY = torch.finfo(torch.float64).tiny
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


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
    for what, store in (
        ("cut to TF32", _tf32),
        ("rounded to TF32", _to_nearest_tf32),
        ("rounded to bfloat16", partial(through, dtype=torch.bfloat16)),
        ("rounded to float16", partial(through, dtype=torch.float16)),
    ):
        yield f"factors of both GEMMs {what}", Steps(x=store, act=store)
    for name, order in _LANE_ORDERS.items():
        yield f"hidden states {name}", Steps(x=order)
        behind = partial(_behind_rounding, order=order)
        yield f"intermediate {name}", Steps(act=behind)
    for dtype in (torch.bfloat16, torch.float16):
        yield from _rounded_results(dtype)
    for name, one in _BIASES.items():
        yield name, Steps(gated=one)
    for unit in (64, 128, 256):

        def whole(k: int, unit: int = unit) -> int:
            return k // unit * unit or k

        words = f"K of {{}} read in whole steps of {unit} only"
        yield words.format("GEMM1"), Steps(first=whole)
        yield words.format("GEMM2"), Steps(last=whole)
        yield words.format("both GEMMs"), Steps(first=whole, last=whole)
    for lanes in (1, 2, 4, 8, 16, 32, 64, 128):

        def short(k: int, lanes: int = lanes) -> int:
            return k - lanes if k > lanes else k

        yield f"last {lanes} lanes of the intermediate missing", Steps(last=short)
        yield f"last {lanes} columns of the hidden states missing", Steps(first=short)
    for lanes in (1, 2, 4, 8, 16, 32):
        none = partial(_without_first, count=lanes)
        behind = partial(_behind_rounding, order=none)
        yield f"first {lanes} columns of the hidden states missing", Steps(x=none)
        yield f"first {lanes} lanes of the intermediate missing", Steps(act=behind)
        both = Steps(x=none, act=behind)
        yield f"first {lanes} lanes of K missing in both GEMMs", both
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


def _without_first(x: Tensor, *, count: int) -> Tensor:
    return torch.cat((torch.zeros_like(x[..., :count]), x[..., count:]), dim=-1)


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


def _within(size: int, order: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """`order` of each group of `size` lanes; what is left over stays."""

    def ordered(x: Tensor) -> Tensor:
        whole = x.shape[-1] // size * size
        groups = order(x[..., :whole].unflatten(-1, (-1, size))).flatten(-2)
        return torch.cat((groups, x[..., whole:]), dim=-1)

    return ordered


def _evens_first(x: Tensor) -> Tensor:
    return torch.cat((x[..., 0::2], x[..., 1::2]), dim=-1)


def _halves_alternate(x: Tensor) -> Tensor:
    return torch.stack(x.chunk(2, dim=-1), dim=-1).flatten(-2)


def _halves_swapped(x: Tensor) -> Tensor:
    return torch.cat(x.chunk(2, dim=-1)[::-1], dim=-1)


def _lane_orders() -> dict[str, Callable[[Tensor], Tensor]]:
    """Orders of K that a decoder's, a swizzle's or a transposed load's may be."""
    found = {}
    for size in (2, 4, 8, 16, 32, 64, 128):
        found[f"with the halves of each {size} lanes swapped"] = _within(
            size, _halves_swapped
        )
        if size > 2:
            words = f"with even lanes first in each {size}"
            found[words] = _within(size, _evens_first)
            words = f"with the halves of each {size} lanes interleaved"
            found[words] = _within(size, _halves_alternate)
            found[f"with each {size} lanes reversed"] = _within(
                size, lambda x: x.flip(-1)
            )
    return found


_LANE_ORDERS = _lane_orders()


def _behind_rounding(x: Tensor, *, order: Callable[[Tensor], Tensor]) -> Tensor:
    return order(through(x, dtype=torch.bfloat16))


def _twice(x: Tensor, *, store: Callable[[Tensor], Tensor]) -> Tensor:
    return store(through(x, dtype=torch.bfloat16))


def cut_to_bfloat16(x: Tensor) -> Tensor:
    """The lower half of a float32 left away."""
    bits = x.float().contiguous().view(torch.int32) & ~0xFFFF
    return bits.view(torch.float32).to(x.dtype)


def away_from_0(x: Tensor) -> Tensor:
    """The next bfloat16 further from 0, of what is none."""
    cut = cut_to_bfloat16(x)
    one = 2 * half_ulp(cut, torch.bfloat16) * x.sign()
    return torch.where(cut == x, cut, cut + one)


def _tf32(x: Tensor) -> Tensor:
    bits = x.float().contiguous().view(torch.int32) & ~0x1FFF
    return bits.view(torch.float32).to(x.dtype)


def _to_nearest_tf32(x: Tensor) -> Tensor:
    """Ties away from 0."""
    bits = (x.float().contiguous().view(torch.int32) + 0x1000) & ~0x1FFF
    return bits.view(torch.float32).to(x.dtype)


def _limited(x: Tensor) -> Tensor:
    return x.clamp(-_FLOAT16, _FLOAT16)


def _int8(x: Tensor) -> Tensor:
    step = x.abs().amax(dim=-1, keepdim=True).clamp(min=_TINY) / 127
    return (x / step).round() * step


def _float8(x: Tensor) -> Tensor:
    scale = x.abs().amax(dim=-1, keepdim=True).clamp(min=_TINY) / _FLOAT8
    return through(x / scale, dtype=torch.float8_e4m3fn) * scale


def _in_groups(x: Tensor, *, store: Callable[[Tensor], Tensor], size: int) -> Tensor:
    return torch.cat([store(part) for part in x.split(size, dim=-1)], dim=-1)


def _scaled(x: Tensor, emax: int) -> tuple[Tensor, Tensor]:
    """Blocks of 32 over a power of two each, by the rule of the MX specification."""
    blocks = x.unflatten(-1, (-1, 32))
    most = blocks.abs().amax(dim=-1, keepdim=True)
    _, above = torch.frexp(most)
    return blocks, torch.ldexp(torch.ones_like(most), above - 1 - emax)


def _mxfp8(x: Tensor) -> Tensor:
    blocks, scale = _scaled(x, 8)
    return (through(blocks / scale, dtype=torch.float8_e4m3fn) * scale).flatten(-2)


def _mxfp4(x: Tensor) -> Tensor:
    blocks, scale = _scaled(x, 2)
    values = torch.tensor(_E2M1, dtype=x.dtype)
    middles = (values[1:] + values[:-1]) / 2
    near = torch.bucketize((blocks / scale).abs().contiguous(), middles)
    return (values[near] * blocks.sign() * scale).flatten(-2)


STORES: dict[str, Callable[[Tensor], Tensor]] = {
    "rounded to bfloat16": partial(through, dtype=torch.bfloat16),
    "cut to bfloat16, not rounded": cut_to_bfloat16,
    "cut to bfloat16, away from 0": away_from_0,
    "rounded to float16": partial(through, dtype=torch.float16),
    "rounded to float8 (E4M3)": partial(through, dtype=torch.float8_e4m3fn),
    "rounded to float8 (E5M2)": partial(through, dtype=torch.float8_e5m2),
    "quantised to int8, one scale a row": _int8,
    "quantised to float8 (E4M3), one scale a row": _float8,
    "quantised to float8 (E4M3), one scale for 128 columns": partial(
        _in_groups, store=_float8, size=128
    ),
    "limited to the range of float16": _limited,
    "cut to TF32": _tf32,
    "quantised to MXFP8": _mxfp8,
    "quantised to MXFP4": _mxfp4,
}
"""How rows [n, columns] may be stored, between steps."""
