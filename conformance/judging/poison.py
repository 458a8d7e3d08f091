"""Memory filled with one byte before a candidate gets it.

0xFF is NaN in every floating format, NaN as an E8M0 scale, -6 twice as a packed
E2M1 byte, -1 as an integer: whoever reads it before writing shows it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

CLEAN, POISON = 0x00, 0xFF

_aten = torch.ops.aten
_ALLOCATIONS = frozenset(
    {
        _aten.empty.memory_format,
        _aten.empty_like.default,
        _aten.empty_permuted.default,
        _aten.empty_strided.default,
        _aten.new_empty.default,
        _aten.new_empty_strided.default,
    }
)

# Sizes whose freed blocks an allocator hands out again: 1 kB to 4 MB.
_DIRTY_BYTES = tuple(2**n for n in range(10, 23))


class _Filling(TorchDispatchMode):
    def __init__(self, byte: int) -> None:
        super().__init__()
        self.byte = byte

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _ALLOCATIONS and isinstance(result, torch.Tensor):
            storage = result.untyped_storage()
            if result.device.type != "meta" and storage.nbytes():
                view = _aten.empty.memory_format(
                    [0], dtype=torch.uint8, device=result.device
                )
                view.set_(storage).fill_(self.byte)
        return result


@contextlib.contextmanager
def memory_of(byte: int, device: torch.device) -> Iterator[None]:
    """Fill every tensor that `torch.empty` and its kin give out in the block.

    Freed blocks of the allocator are filled too, which reaches allocations made
    inside native kernels as far as the allocator reuses memory. What is left behind
    outlives the block: compare one byte with another, not with memory as it is.
    """
    used = [
        torch.full((size,), byte, dtype=torch.uint8, device=device)
        for size in _DIRTY_BYTES
    ]
    del used
    with _Filling(byte):
        yield
