"""The tests of ``tests/triton_moe`` in Triton's interpreter, on the CPU.

TRITON_INTERPRET=1 has to be there before Triton is imported, and changes every kernel
of the process: so they run in a pytest of their own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import triton

TESTS = Path(__file__).parent / "triton_moe"
OPTIONS = (
    "-q",
    # Not our own plugin, which imports every candidate, nor what it needs.
    *("-p", "no:mxmoe", "-p", "no:xdist"),
    *("--override-ini", "addopts=--import-mode=importlib"),
    # Inf - Inf, which a kernel may well compute, is worth a warning to NumPy.
    *("-W", "ignore::RuntimeWarning"),
)


@pytest.mark.skipif(
    triton.__version__.startswith("3.6."),
    reason="the interpreter of Triton 3.6 fails at loop bounds with NumPy from 2.4 on",
)
def test_the_kernels_are_right_in_the_interpreter() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *OPTIONS, str(TESTS)],
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout, done.stdout
