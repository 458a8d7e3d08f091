"""Tests of the Triton kernels, natively on a GPU or in Triton's interpreter.

The interpreter is asked for by TRITON_INTERPRET=1 before Triton is imported, so it has
a process of its own: ``tests/test_triton_moe_interpreted.py`` starts it. There the
arithmetic is float32 only, because the interpreter computes bfloat16 wrongly without
a word.
"""

from __future__ import annotations

import pytest
import torch
from triton import knobs

INTERPRETED = knobs.runtime.interpret


@pytest.fixture(scope="session")
def device() -> torch.device:
    if INTERPRETED:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device; test_triton_moe_interpreted.py runs it on the CPU")
    return torch.device("cuda")


@pytest.fixture(scope="session")
def native(device: torch.device) -> torch.device:
    """The device, for what the interpreter cannot do."""
    if INTERPRETED:
        pytest.skip("runs on a GPU only: bfloat16, sizes, graphs")
    return device
