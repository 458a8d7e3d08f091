"""`mxmoe check -x` ends at the first failure, and says what it did not come to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

WRONG = "mxmoe.conformance.faults.catalogue:drop_bias_fc2"


def check(folder: Path, *options: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "mxmoe.conformance.commands.main", "check", *options],
        cwd=folder,
        env=os.environ | {"COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("options", "failures"), [(("-x",), 1), (("--maxfail", "2"), 2)]
)
def test_a_run_ends_after_so_many_failures(
    tmp_path: Path, options: tuple[str, ...], failures: int
) -> None:
    code, said = check(tmp_path, "-c", WRONG, "-m", "numeric", *options)
    assert code == 1
    assert said.count("FAILED test_") == failures
    assert "behaves as if: down bias ignored" in said
    verdict = said.splitlines()[-1]
    assert verdict.startswith("verdict: FAIL")
    assert " more not run" in verdict


def test_no_failure_is_refused(tmp_path: Path) -> None:
    code, said = check(tmp_path, "-c", WRONG, "--maxfail", "0")
    assert code == 2
    assert "--maxfail" in said
