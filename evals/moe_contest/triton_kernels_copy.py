"""triton_kernels, imported from a copy in which this Triton understands every line.

The package is developed together with Triton's main branch, and releases lack three
things that it uses. The lines that use them are rewritten, in a temporary copy: neither
the installed package nor Triton itself is touched, and to a Triton that has all three
the new lines mean the same. They are known from version 1.0.0.post20260510 of
``tokenspeed-triton-kernels`` on PyPI; what another version does not have is left alone.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import importlib.metadata
import importlib.util
import shutil
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mxmoe.evals.moe_contest.contestant import Unavailable

PACKAGE = "triton_kernels"
# On PyPI, and as Triton's repository names its own.
DISTRIBUTIONS = ("tokenspeed-triton-kernels", "triton_kernels")


@dataclass(frozen=True)
class Rewrite:
    """One place in one file of the package, and what stands there afterwards."""

    file: str
    found: str
    instead: str


REWRITES = (
    # Triton 3.6 and 3.7 do not know this AMD target, so no device is one.
    Rewrite(
        "target_info.py",
        "    is_hip_gfx1250,\n)\n",
        ")\n\n\n@triton.constexpr_function\ndef is_hip_gfx1250():\n    return False\n",
    ),
    # Lines that Triton 3.6 does not keep in a JITFunction; they serve error messages.
    Rewrite(
        "specialize.py",
        "adjust_line_number(fn.def_file_line_number)",
        "adjust_line_number(fn.starting_line_number)",
    ),
    Rewrite("specialize.py", "fn.def_file_col_number", "0"),
    # `tl.cdiv` of two constants is no constant in Triton 3.6, so no shape can use it.
    Rewrite(
        "reduce.py",
        "BLOCK_X_SMX1: tl.constexpr = tl.cdiv(BLOCK_X_S1, 32)",
        "BLOCK_X_SMX1: tl.constexpr = (BLOCK_X_S1 + 31) // 32",
    ),
    Rewrite(
        "reduce.py",
        "tl.cdiv(BLOCK_Y_S1, 1 if Y_MX_BLOCK_SIZE is None else Y_MX_BLOCK_SIZE)",
        "BLOCK_Y_S1 if Y_MX_BLOCK_SIZE is None else "
        "(BLOCK_Y_S1 + Y_MX_BLOCK_SIZE - 1) // Y_MX_BLOCK_SIZE",
    ),
)


@dataclass(frozen=True)
class TritonKernels:
    """The modules that one layer needs."""

    matmul: Any
    layout: Any
    reduce: Any
    swiglu: Any
    tensor: Any
    topk: Any


@functools.cache
def import_triton_kernels(source: Path | None) -> TritonKernels:
    """From `source`, a wheel or a folder with the package, or as it is installed.

    Raises `Unavailable` with one sentence if it is not there or does not import.
    """
    if PACKAGE not in sys.modules:
        folder = Path(tempfile.mkdtemp(prefix="mxmoe-triton-kernels-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        copy_package(source, folder)
        sys.path.insert(0, str(folder))
    try:
        return TritonKernels(
            matmul=_module("matmul"),
            layout=_module("tensor_details.layout"),
            reduce=_module("reduce"),
            swiglu=_module("swiglu"),
            tensor=_module("tensor"),
            topk=_module("topk"),
        )
    except Exception as error:
        said = " ".join(str(error).split())
        raise Unavailable(
            f"{PACKAGE} does not import: {type(error).__name__}: {said:.200}"
        ) from error


def copy_package(source: Path | None, folder: Path) -> None:
    """Put the package from `source` into `folder`, rewritten."""
    target = folder / PACKAGE
    if source is None:
        found = importlib.util.find_spec(PACKAGE)
        if found is None or not found.submodule_search_locations:
            raise Unavailable(
                f"{PACKAGE} is not installed; name a wheel or a folder of it with "
                "--triton-kernels"
            )
        shutil.copytree(found.submodule_search_locations[0], target)
    elif (source / PACKAGE).is_dir():
        shutil.copytree(source / PACKAGE, target)
    elif zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as wheel:
            ours = [n for n in wheel.namelist() if n.startswith(f"{PACKAGE}/")]
            wheel.extractall(folder, ours)
    if not target.is_dir():
        raise Unavailable(
            f"{source}: expected a wheel or a folder that holds {PACKAGE}, found none"
        )
    for rewrite in REWRITES:
        file = target / rewrite.file
        if file.is_file():
            text = file.read_text(encoding="utf-8")
            file.write_text(text.replace(rewrite.found, rewrite.instead), "utf-8")


def package_version(source: Path | None) -> str | None:
    """The name of the wheel or folder, or the installed distribution's version."""
    if source is not None:
        return source.name
    for name in DISTRIBUTIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return f"{name} {importlib.metadata.version(name)}"
    return None


def _module(name: str) -> Any:
    return importlib.import_module(f"{PACKAGE}.{name}")
