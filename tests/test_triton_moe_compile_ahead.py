"""`kernels.triton_moe.compile_ahead`: what a GPU would run, seen without one."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from mxmoe.kernels.triton_moe.compile_ahead import TARGETS
from mxmoe.kernels.triton_moe.compile_ahead import compile_ahead
from mxmoe.kernels.triton_moe.compile_ahead import launches_of

INSTRUCTIONS = {
    "sm_80": "mma.sync",
    "sm_90": "wgmma",
    "sm_100": "tcgen05.mma",
    "gfx950": "mfma",
}


@triton.jit
def square_kernel(x, out, stride, SIZE: tl.constexpr):  # noqa: N803
    i = tl.arange(0, SIZE)
    a = tl.load(x + i[:, None] * stride + i[None, :])
    tl.store(out + i[:, None] * SIZE + i[None, :], tl.dot(a, a))


def square(size=64, stride=64, first=0, **options):
    x = torch.empty(2 * size * stride, dtype=torch.bfloat16, device="meta")
    out = torch.empty(size, size, device="meta")
    square_kernel[(1,)](x[first:], out, stride, SIZE=size, **options)


def compiled(target, **case):
    (launch,) = launches_of(lambda: square(**case))
    return compile_ahead(launch, TARGETS[target])


def test_a_launch_is_recorded_and_nothing_is_launched() -> None:
    launches = launches_of(lambda: (square(), square(32, num_warps=8)))
    assert ["square_kernel"] * 2 == [launch.name for launch in launches]
    assert [(1,)] * 2 == [launch.grid for launch in launches]
    assert {"SIZE": 32, "num_warps": 8} == launches[1].options


@pytest.mark.parametrize("target", TARGETS)
def test_the_matrix_instruction_of_the_target_is_seen(target) -> None:
    built = compiled(target)
    assert INSTRUCTIONS[target] in built.assembly
    assert built.binary.startswith(b"\x7fELF")
    assert 0 < built.registers <= 512
    assert 0 == built.stack_bytes
    assert built.shared_bytes > 0


def test_spilled_registers_are_seen() -> None:
    assert compiled("sm_80", size=128, num_warps=4).stack_bytes > 0


def test_arguments_are_specialised_as_in_a_launch() -> None:
    """A stride of 16 allows loads of 16 bytes; 17, or a tensor 2 bytes on, do not."""
    assert "ld.global.v4" in compiled("sm_90").assembly
    assert "ld.global.v4" not in compiled("sm_90", stride=65).assembly
    assert "ld.global.v4" not in compiled("sm_90", first=1).assembly


def test_options_of_the_launch_are_kept() -> None:
    assert ".reqntid 256" in compiled("sm_90", num_warps=8).assembly
