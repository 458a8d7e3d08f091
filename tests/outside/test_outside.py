"""Kernels and faults by others: the honest pass, the wrong fail, with their cause."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

HERE = Path(__file__).parent
KERNELS = sorted((HERE / "kernels").glob("*.py"))
# Ten times what the longest takes on a core of its own.
_SECONDS = 600.0


def _table() -> ModuleType:
    """The table beside this file: folders of tests are no packages."""
    path = HERE / "outside_faults.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # a dataclass looks for its module there
    spec.loader.exec_module(module)
    return module


FAULTS = {fault.name: fault for fault in _table().OUTSIDE_FAULTS}


def judged(source: str, folder: Path, *options: str) -> tuple[int, str]:
    """The exit code of ``mxmoe check`` on a kernel, and what a reader sees first.

    That is the first failure and, at the end, the causes that most failures name.
    """
    (folder / "kernel.py").write_text(source, encoding="utf-8")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mxmoe.conformance.commands.main", "check"),
            *("--candidate", "./kernel.py", *options),
        ],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    lines = done.stdout.splitlines()
    causes = [line for line in lines if line.startswith("cause ")]
    first = done.stdout.partition("\n\n")[0]
    return done.returncode, "\n".join((first, *causes, *done.stderr.splitlines()))


def test_the_kernels_are_a_strangers() -> None:
    assert len(KERNELS) == 5
    assert not [path.name for path in KERNELS if "mxmoe" in path.read_text("utf-8")]
    assert {fault.kernel for fault in FAULTS.values()} == {k.stem for k in KERNELS}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_each_edit_is_of_text_that_stands_there_once(fault: Any) -> None:
    text = (HERE / "kernels" / f"{fault.kernel}.py").read_text("utf-8")
    for right, wrong in fault.edits:
        assert text.count(right) == 1, right
        text = text.replace(right, wrong)
    assert fault.source() == text
    ast.parse(text)


def test_what_the_first_run_named_is_demanded_and_the_docs_count_it() -> None:
    blind = Counter(fault.blind for fault in FAULTS.values())
    assert blind == {"named": 23, "partly": 6, "wrong": 1}
    loaders = ("loader_alone", "loader_and_consumer")
    in_bytes = Counter(f.blind for f in FAULTS.values() if f.kernel in loaders)
    assert in_bytes == {"named": 4, "wrong": 1}
    assert not [f.name for f in FAULTS.values() if f.blind == "named" and not f.says]
    page = (HERE.parents[1] / "docs" / "faults.md").read_text("utf-8")
    assert "named 23, partly 6, wrong 1" in page


@pytest.mark.parametrize("name", ["alpha_and_limit_swapped", "clamped_before_the_bias"])
def test_the_first_failure_says_the_cause(name: str, tmp_path: Path) -> None:
    code, said = judged(FAULTS[name].source(), tmp_path, "-x")
    assert code == 1, said
    assert FAULTS[name].says in said


@pytest.mark.nightly
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda path: path.stem)
def test_an_honest_kernel_passes(kernel: Path, tmp_path: Path) -> None:
    code, said = judged(kernel.read_text("utf-8"), tmp_path)
    assert code == 0, said


@pytest.mark.nightly
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_wrong_kernel_fails_and_its_cause_is_said(fault: Any, tmp_path: Path) -> None:
    code, said = judged(fault.source(), tmp_path, "--maxfail", "3")
    assert code == 1, said
    assert fault.says in said
