"""The next kernel is launched while this one ends (programmatic dependent launch).

A launch costs about a microsecond, in which the GPU would idle. A kernel that is
launched as `chained` starts as soon as every program of the kernel before it has
called `start_next`, or is done; it must call `wait` before it reads or writes any
memory. `wait` returns once that kernel is complete and what it wrote can be seen.
As each kernel of the chain waits, so are then all kernels before that one.

See "griddepcontrol" in the PTX ISA, and the CUDA programming guide on programmatic
dependent launch.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from mxmoe.kernels.triton_moe.device import has_dependent_launch


def chained(device: torch.device, early: bool = True) -> dict[str, bool]:
    """The options of a launch on `device`; a kernel takes CHAINED as a constant.

    early : it may come while the kernel before it ends; the next one may in any case.
    """
    if not has_dependent_launch(device):
        return {"CHAINED": False}
    return {"CHAINED": True, "launch_pdl": early}


@triton.jit
def wait(CHAINED: tl.constexpr):  # noqa: N803
    """Until the kernel before this one is complete."""
    if CHAINED:
        tl.inline_asm_elementwise(
            "griddepcontrol.wait; mov.b32 $0, 0;",
            "=r",
            [],
            dtype=tl.int32,
            is_pure=False,
            pack=1,
        )


@triton.jit
def start_next(CHAINED: tl.constexpr):  # noqa: N803
    """This program needs no more room than it has: the next kernel may come."""
    if CHAINED:
        tl.inline_asm_elementwise(
            "griddepcontrol.launch_dependents; mov.b32 $0, 0;",
            "=r",
            [],
            dtype=tl.int32,
            is_pure=False,
            pack=1,
        )
