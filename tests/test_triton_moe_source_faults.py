"""Wrong lines in copies of the Triton kernels: each applies, and is found."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import triton

from mxmoe.kernels import triton_moe
from mxmoe.kernels.triton_moe.source_faults import SOURCE_FAULTS
from mxmoe.kernels.triton_moe.source_faults import SourceFault
from mxmoe.kernels.triton_moe.source_faults import plant
from mxmoe.kernels.triton_moe.source_faults import spoiled


@pytest.mark.parametrize("fault", SOURCE_FAULTS, ids=lambda fault: fault.name)
def test_a_copy_differs_in_the_line_of_its_fault_alone(
    fault: SourceFault, tmp_path: Path
) -> None:
    right, wrong = (tmp_path / plant(f, tmp_path) for f in (None, fault))
    changed = [
        file.name
        for file in right.glob("*.py")
        if file.read_text().replace(right.name, "")
        != (wrong / file.name).read_text().replace(wrong.name, "")
    ]
    assert changed == [fault.file]
    ast.parse((wrong / fault.file).read_text())


def test_a_copy_names_nothing_of_the_package_that_it_is_of(tmp_path: Path) -> None:
    copy = tmp_path / plant(None, tmp_path)
    names = {"mxmoe.kernels.triton_moe", '"mxmoe::', "ops.mxmoe"}
    texts = [file.read_text() for file in copy.glob("*.py")]
    assert len(texts) == len(list(Path(triton_moe.__path__[0]).glob("*.py")))
    assert not [name for name in names for text in texts if name in text]


def test_a_fault_whose_line_is_gone_is_refused() -> None:
    fault = replace(SOURCE_FAULTS[0], right="gone")
    with pytest.raises(ValueError, match="found it 0 times"):
        spoiled(fault, "text")


@pytest.mark.nightly
@pytest.mark.skipif(
    triton.__version__.startswith("3.6."),
    reason="the interpreter of Triton 3.6 fails at loop bounds with NumPy from 2.4 on",
)
def test_a_planted_line_is_found_and_named_and_its_absence_passes(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mxmoe.evals.judge_source_faults", str(tmp_path)),
            *("--device", "cpu", "--profile", "dev", "-k", "beta", "--jobs", "2"),
            *("--check", "test_layer_output_stays_within_the_bound"),
        ],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no +1 on the up half" in done.stdout
