"""How many threads of a CPU a model gets."""

from __future__ import annotations

import os

import torch

# Below this width a product of one token with a matrix is done within the microseconds
# that waking another thread takes.
_WIDE = 1024


def spare_threads(model: torch.nn.Module, *, hidden: int) -> None:
    """One thread from now on for a `model` on a CPU that is too narrow for more.

    Torch takes a thread for each core, and at the end of each small product they wait
    for each other: for whole time slices where the cores have other work. A process
    with OMP_NUM_THREADS keeps what it asks for.
    """
    on_cpu = all(p.device.type == "cpu" for p in model.parameters())
    if hidden < _WIDE and on_cpu and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
