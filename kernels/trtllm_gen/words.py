"""Bytes moved in the widest words that both sides allow."""

from __future__ import annotations

import torch

# A strided copy costs per word. CUDA loads 16 bytes at once, and complex128 is the
# only dtype of that size; copying it moves bits, NaN payloads too.
_WORDS = (torch.complex128, torch.int64, torch.int32, torch.int16)


def in_words(
    destination: torch.Tensor, source: torch.Tensor, *, widest: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both tensors [..., n] viewed in words along the last axis, [..., n / width].

    Same device and dtype. The width divides the last axis, every stride and the
    addresses of both; it is 1 entry where nothing wider does. widest : in bytes;
    default 16 on CUDA, 8 on the CPU.
    """
    limit = widest or (16 if destination.is_cuda else 8)
    for dtype in _WORDS:
        if dtype.itemsize > limit:
            continue
        if _allows(destination, dtype) and _allows(source, dtype):
            return destination.view(dtype), source.view(dtype)
    return destination, source


def _allows(tensor: torch.Tensor, dtype: torch.dtype) -> bool:
    ratio, rest = divmod(dtype.itemsize, tensor.element_size())
    if rest or ratio < 2 or tensor.stride(-1) != 1:
        return False
    sizes = (tensor.shape[-1], tensor.storage_offset(), *tensor.stride()[:-1])
    if any(size % ratio for size in sizes):
        return False
    return tensor.data_ptr() % dtype.itemsize == 0
