"""How rows of numbers may be stored between the steps of a layer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from mxmoe.conformance.bounds.propagated import half_ulp
from mxmoe.conformance.why_numbers.layer_steps import through

Tensor = torch.Tensor
_FLOAT16 = 65504.0
_FLOAT8 = torch.finfo(torch.float8_e4m3fn).max
_TINY = torch.finfo(torch.float64).tiny
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def cut_to_bfloat16(x: Tensor) -> Tensor:
    """The lower half of a float32 left away."""
    bits = x.float().contiguous().view(torch.int32) & ~0xFFFF
    return bits.view(torch.float32).to(x.dtype)


def away_from_0(x: Tensor) -> Tensor:
    """The next bfloat16 further from 0, of what is none."""
    cut = cut_to_bfloat16(x)
    one = 2 * half_ulp(cut, torch.bfloat16) * x.sign()
    return torch.where(cut == x, cut, cut + one)


def to_tf32(x: Tensor) -> Tensor:
    """Ten bits behind the point, the others left away."""
    bits = x.float().contiguous().view(torch.int32) & ~0x1FFF
    return bits.view(torch.float32).to(x.dtype)


def to_nearest_tf32(x: Tensor) -> Tensor:
    """Ties away from 0."""
    bits = (x.float().contiguous().view(torch.int32) + 0x1000) & ~0x1FFF
    return bits.view(torch.float32).to(x.dtype)


def _limited(x: Tensor) -> Tensor:
    return x.clamp(-_FLOAT16, _FLOAT16)


def to_int8(x: Tensor, most: Tensor) -> Tensor:
    """In 255 steps, the last of which is `most`."""
    step = most.clamp(min=_TINY) / 127
    return (x / step).round() * step


def to_float8(x: Tensor, most: Tensor) -> Tensor:
    """E4M3, whose largest number stands for `most`."""
    scale = most.clamp(min=_TINY) / _FLOAT8
    return through(x / scale, dtype=torch.float8_e4m3fn) * scale


def _int8(x: Tensor) -> Tensor:
    return to_int8(x, x.abs().amax(dim=-1, keepdim=True))


def _float8(x: Tensor) -> Tensor:
    return to_float8(x, x.abs().amax(dim=-1, keepdim=True))


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
    "cut to TF32": to_tf32,
    "quantised to MXFP8": _mxfp8,
    "quantised to MXFP4": _mxfp4,
}
"""How rows [n, columns] may be stored, between steps."""
