"""Bytes moved in the widest words that both sides allow."""

from __future__ import annotations

import torch

# A strided copy costs per word. CUDA loads 16 bytes at once, and complex128 is the
# only dtype of that size; copying it moves bits, NaN payloads too.
_WORDS = (torch.int64, torch.int32, torch.int16)
_WORDS_ON_CUDA = (torch.complex128, *_WORDS)


def in_words(
    destination: torch.Tensor, source: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both tensors [..., n] viewed in words along the last axis, [..., n / width].

    Same device and dtype. The width divides the last axis, every stride and the
    addresses of both; it is 1 entry where nothing wider does.
    """
    candidates = _WORDS_ON_CUDA if destination.is_cuda else _WORDS
    for dtype in candidates:
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
