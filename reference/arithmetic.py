"""The named classes of arithmetic that a candidate may declare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """A named class of arithmetic: where, and to what, a candidate may round.

    accumulate : sums of products, bias addition and the activation run in this.
    tensor_core : sums may truncate at every step, as matrix units do, instead
        of rounding to nearest.
    intermediate : the activation is rounded to this before the second GEMM.
    slot : each slot's `down` is rounded to this before the weighted sum.
    output : the result is rounded to this; the hidden states come in this.
    """

    name: str
    accumulate: torch.dtype
    tensor_core: bool
    intermediate: torch.dtype
    slot: torch.dtype
    output: torch.dtype


_F32, _BF16 = torch.float32, torch.bfloat16
_CLASSES = (
    Arithmetic(
        name="w4a16_fp32acc",
        accumulate=_F32,
        tensor_core=True,
        intermediate=_BF16,
        slot=_F32,
        output=_BF16,
    ),
    Arithmetic(
        name="w4a16_fp32acc_bf16slots",
        accumulate=_F32,
        tensor_core=True,
        intermediate=_BF16,
        slot=_BF16,
        output=_BF16,
    ),
    Arithmetic(
        name="fp32",
        accumulate=_F32,
        tensor_core=False,
        intermediate=_F32,
        slot=_F32,
        output=_F32,
    ),
)
ARITHMETIC: Mapping[str, Arithmetic] = MappingProxyType({c.name: c for c in _CLASSES})
"""The closed list of classes that a candidate may declare."""
RESERVED_ARITHMETIC = ("w4a8_mxfp8", "w4a8_fp8")

_F64 = torch.float64
FLOAT64 = Arithmetic(
    name="float64",
    accumulate=_F64,
    tensor_core=False,
    intermediate=_F64,
    slot=_F64,
    output=_F64,
)
"""Truth: no rounding that matters. The reference alone computes in it."""
