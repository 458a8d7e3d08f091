"""A prepared layer as the kernels take it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from triton import knobs

from mxmoe.kernels.triton_moe.geometry import geometry
from mxmoe.reference.errors import BadInput
from mxmoe.reference.types import PreparedWeights


@dataclass(frozen=True, kw_only=True, eq=False)
class Weights:
    """One GEMM's weights in layout ``triton_moe.v1``.

    words : int32 [e, rows/64, K/64, 512]. scales : int32 [e, rows/64, K/64, 32], four
    biased exponents a word. bias : float32 [e, rows] or None.
    """

    words: torch.Tensor
    scales: torch.Tensor
    bias: torch.Tensor | None

    def pointers(self) -> tuple[torch.Tensor, ...]:
        """The arguments of a kernel; a bias that is not there is not read."""
        words, scales = self.words.view(torch.uint32), self.scales.view(torch.uint32)
        return words, scales, scales if self.bias is None else self.bias


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """Both GEMMs of one rank.

    lanes : of the rank, padding included; the width of the activation. first_expert :
    global id of expert 0. wide_scales : whether a biased exponent is above 128.
    """

    gate_up: Weights
    down: Weights
    hidden: int
    lanes: int
    first_expert: int
    alpha: float
    beta: float
    limit: float
    wide_scales: bool

    @property
    def experts(self) -> int:
        """Experts of this rank."""
        return len(self.gate_up.words)

    @property
    def dtype(self) -> torch.dtype:
        """Of the hidden states and activations; the interpreter has float32 alone."""
        return torch.float32 if knobs.runtime.interpret else torch.bfloat16


def layer_of(prepared: PreparedWeights) -> Layer:
    """The tensors that `prepare` made, as the kernels take them.

    `BadInput` if they are not: weights that were never prepared, or of another shape.
    """
    config, sizes = prepared.config, geometry(prepared.config, prepared.shard)
    for name, (shape, dtype) in sizes.outputs().items():
        _check(name, prepared.get(name), shape, dtype)
    return Layer(
        gate_up=_weights(prepared, "gate_up"),
        down=_weights(prepared, "down"),
        hidden=config.hidden,
        lanes=sizes.padded,
        first_expert=sizes.experts.start,
        alpha=config.activation.alpha,
        beta=config.activation.beta,
        limit=config.activation.limit,
        wide_scales=bool(prepared["wide_scales"]),
    )


def _check(
    name: str, found: object, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    wanted = f"prepared: expected {name}, {dtype} {list(shape)}, as `prepare` makes it"
    if not isinstance(found, torch.Tensor):
        raise BadInput(f"{wanted}, found none")
    if found.shape != shape or found.dtype != dtype or not found.is_contiguous():
        form = "" if found.is_contiguous() else ", not contiguous"
        raise BadInput(f"{wanted}, found {found.dtype} {list(found.shape)}{form}")


def _weights(prepared: Mapping[str, Any], name: str) -> Weights:
    return Weights(
        words=prepared[f"{name}_weights"].view(torch.int32),
        scales=prepared[f"{name}_scales"].view(torch.int32),
        bias=prepared.get(f"{name}_bias"),
    )
