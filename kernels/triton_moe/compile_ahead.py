"""Compile the Triton kernels for a GPU that is not there, and look at the result.

    launches = launches_of(lambda: combine(y, ids, weights, out=out))
    compiled = compile_ahead(launches[0], TARGETS["sm_90"])
    assert "wgmma" in compiled.assembly and compiled.stack_bytes == 0

What is compiled is what a launch would compile: the arguments, their alignment and
their values are specialised by Triton's own code. Tensors may live on any device,
``meta`` too, so that no memory is needed for real shapes. Neither a driver nor a
GPU is asked. It does not work under ``TRITON_INTERPRET=1``.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import ASTSource
from triton.compiler.compiler import make_backend
from triton.experimental.gluon._runtime import GluonASTSource
from triton.runtime.jit import JITFunction
from triton.runtime.jit import create_function_from_signature

TARGETS: Mapping[str, GPUTarget] = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx950": GPUTarget("hip", "gfx950", 64),
}


@dataclass(frozen=True, eq=False)
class Launch:
    """One ``kernel[grid](*arguments, **options)``; options hold constants as well."""

    kernel: JITFunction
    grid: tuple[int, ...]
    arguments: tuple[object, ...]
    options: Mapping[str, object]

    @property
    def name(self) -> str:
        """The name of the kernel."""
        return str(self.kernel.__name__)


@dataclass(frozen=True, eq=False)
class Compiled:
    """A kernel compiled for one target.

    assembly : PTX, or AMDGCN for HIP.
    binary : the cubin, or the hsaco.
    registers : 32-bit registers of one thread (VGPRs of a lane for HIP).
    stack_bytes : local memory of one thread, which is where spilled registers go;
        0 says that nothing was spilled.
    shared_bytes : shared memory of one program.
    """

    assembly: str
    binary: bytes
    registers: int
    stack_bytes: int
    shared_bytes: int


def launches_of(call: Callable[[], object]) -> list[Launch]:
    """The launches that `call` makes, in order; nothing is launched."""
    launches = []

    def record(
        kernel: JITFunction,
        *arguments: object,
        grid: tuple[int, ...],
        warmup: bool,
        **options: object,
    ) -> None:
        launches.append(Launch(kernel, grid, arguments, options))

    with mock.patch.object(JITFunction, "run", record):
        call()
    return launches


def compile_ahead(launch: Launch, target: GPUTarget) -> Compiled:
    """Compile what `launch` would run on `target`; 0.3 to 3 seconds, cached on disk.

    ``num_warps``, ``num_stages`` and the like are taken from the launch. Errors are
    those of Triton and of its assembler.
    """
    kernel, backend = launch.kernel, make_backend(target)
    # What JITFunction.run does before it compiles, for the target in place of the
    # active driver's.
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    bound, specialization, options = bind(
        *launch.arguments, **{"debug": False, **launch.options}
    )
    parsed, signature, constants, attributes = kernel._pack_args(
        backend, options, bound, specialization, options
    )
    source_type = GluonASTSource if kernel.is_gluon() else ASTSource
    source = source_type(kernel, signature, constants, attributes)
    built = triton.compile(source, target=target, options=parsed.__dict__)
    if target.backend == "hip":
        assembly, binary = built.asm["amdgcn"], built.asm["hsaco"]
        registers, stack = _hip_figures(assembly)
    else:
        assembly, binary = built.asm["ptx"], built.asm["cubin"]
        registers, stack = _cuda_figures(binary)
    return Compiled(assembly, binary, registers, stack, built.metadata.shared)


def _cuda_figures(cubin: bytes) -> tuple[int, int]:
    """Registers and stack bytes of a thread, by the cuobjdump that Triton bundles."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        command = [knobs.nvidia.cuobjdump.path, "-res-usage", str(file)]
        usage = subprocess.run(command, check=True, capture_output=True, text=True)
    registers, stack = r"\bREG:(\d+)", r"\bSTACK:(\d+)"
    return _number(registers, usage.stdout), _number(stack, usage.stdout)


def _hip_figures(assembly: str) -> tuple[int, int]:
    """The same from the metadata at the end of the assembly."""
    registers = r"\.vgpr_count:\s+(\d+)"
    stack = r"\.private_segment_fixed_size:\s+(\d+)"
    return _number(registers, assembly), _number(stack, assembly)


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    if found is None:
        raise RuntimeError(f"no {pattern!r} in what the compiler says: {text[-200:]!r}")
    return int(found[1])
