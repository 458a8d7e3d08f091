"""Which buffers of the caller `prepare` refuses, before anything is written."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from mxmoe.kernels.trtllm_gen.geometry import Geometry
from mxmoe.reference.errors import BadInput
from mxmoe.reference.types import ExpertWeights


def check_outputs(
    out: Mapping[str, torch.Tensor],
    sizes: Geometry,
    device: torch.device,
    weights: ExpertWeights,
) -> dict[str, torch.Tensor]:
    """`out` in the order of `Geometry.outputs`, if every buffer can be written."""
    expected = sizes.outputs()
    if not isinstance(out, Mapping) or out.keys() != expected.keys():
        found = sorted(map(str, out)) if isinstance(out, Mapping) else type(out)
        raise BadInput(f"out: expected the names {sorted(expected)}, found {found}")
    for name, (shape, dtype) in expected.items():
        _check_buffer(f"out[{name!r}]", out[name], shape, dtype, device)
    _check_apart(out, weights)
    return {name: out[name] for name in expected}


def _check_buffer(
    name: str,
    buffer: object,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    if not isinstance(buffer, torch.Tensor):
        raise BadInput(f"{name}: expected a tensor, found {type(buffer).__name__}")
    if tuple(buffer.shape) != shape:
        raise BadInput(
            f"{name}: expected shape {list(shape)}, found {list(buffer.shape)}"
        )
    if buffer.dtype != dtype:
        raise BadInput(f"{name}: expected {dtype}, found {buffer.dtype}")
    if buffer.device != device:
        raise BadInput(f"{name}: expected device {device}, found {buffer.device}")
    if not buffer.is_contiguous():
        raise BadInput(
            f"{name}: expected a contiguous tensor, found strides "
            f"{list(buffer.stride())}"
        )


def _check_apart(out: Mapping[str, torch.Tensor], weights: ExpertWeights) -> None:
    """No buffer may share memory with another one or with the input."""
    spans = [(*_span(t), f"out[{n!r}]", True) for n, t in out.items()]
    spans += [(*_span(t), n, False) for n, t in weights.tensors().items()]
    spans.sort()
    for i, (_, stop, name, written) in enumerate(spans):
        for start, _, other, also in spans[i + 1 :]:
            if start >= stop:
                break
            if written or also:
                raise BadInput(
                    f"out: expected memory of its own for every buffer, found "
                    f"{name} and {other} overlapping"
                )


def _span(tensor: torch.Tensor) -> tuple[int, int]:
    """First and last address; empty tensors and other devices overlap with nothing."""
    if tensor.numel() == 0:
        return (0, 0)
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    entries = 1 + sum((size - 1) * stride for size, stride in steps)
    start = tensor.data_ptr()
    return (start, start + entries * tensor.element_size())
