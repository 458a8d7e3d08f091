"""How much memory a function has allocated at most, beyond what was there before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_extra_bytes(run: Callable[[], object], device: torch.device) -> int:
    """Bytes of tensors alive at once that `run` has made, its result included.

    On CUDA as the allocator counts them, in its own block sizes. On the CPU counted
    after each operator; what an operator allocates and frees inside is not seen.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with _Counting() as counting:
        run()
    return counting.peak


class _Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._made: list[tuple[StorageWeakRef, int]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        known = {s._cdata for s in _storages((args, kwargs))}
        known |= {reference.cdata for reference, _ in self._made}
        self._made += [
            (StorageWeakRef(s), s.nbytes())
            for s in _storages(result)
            if s._cdata not in known
        ]
        self._made = [made for made in self._made if not made[0].expired()]
        self.peak = max(self.peak, sum(nbytes for _, nbytes in self._made))
        return result


def _storages(values: object) -> list[torch.UntypedStorage]:
    tensors = [v for v in tree_leaves(values) if isinstance(v, torch.Tensor)]
    return [tensor.untyped_storage() for tensor in tensors]
