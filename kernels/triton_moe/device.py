"""What the kernels must know of the device that they run on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache

import torch

# sm_90 alone has wgmma.
_HOPPER = 9

_ASSUMED: ContextVar[int | None] = ContextVar("assumed", default=None)


@contextmanager
def assume_capability(major: int) -> Iterator[None]:
    """Launches made within are those of a device of compute capability `major`."""
    token = _ASSUMED.set(major)
    try:
        yield
    finally:
        _ASSUMED.reset(token)


def has_wgmma(device: torch.device) -> bool:
    """Whether Triton multiplies with wgmma there."""
    return _major(device) == _HOPPER


def has_dependent_launch(device: torch.device) -> bool:
    """Whether a kernel can be launched while the one before it ends: from sm_90 on."""
    return _major(device) >= _HOPPER


def _major(device: torch.device) -> int:
    assumed = _ASSUMED.get()
    return _major_of(device) if assumed is None else assumed


@lru_cache
def _major_of(device: torch.device) -> int:
    """Compute capability of an NVIDIA GPU; 0 of anything else."""
    if device.type != "cuda" or torch.version.cuda is None:
        return 0
    return torch.cuda.get_device_capability(device)[0]
