"""Which runs of pytest load candidates: those that may judge one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mxmoe.conformance.plugin import PACKAGE
from mxmoe.conformance.plugin import only_tests_of_mxmoe

CHECKOUT = PACKAGE.parent


def run_of(*args: str, folder: Path = CHECKOUT) -> Any:
    """What pytest's configuration says of a run of `args`, begun in `folder`."""
    place = SimpleNamespace(dir=folder)
    return SimpleNamespace(args=list(args), invocation_params=place)


@pytest.mark.parametrize(
    "args",
    [
        ("tests",),
        ("tests/test_docs.py::test_one", "tests/verify"),
        (str(CHECKOUT / "tests" / "report"),),
    ],
)
def test_tests_of_mxmoe_alone_load_no_candidate(args: tuple[str, ...]) -> None:
    assert only_tests_of_mxmoe(run_of(*args))


@pytest.mark.parametrize(
    "args",
    [
        (".",),
        ("conformance/checks", "tests"),
        ("tests", "conformance/checks/test_l1_bytes.py::test_one"),
        ("tests/../conformance/checks",),
        ("mxmoe.conformance",),
    ],
)
def test_a_run_that_may_judge_loads_its_candidates(args: tuple[str, ...]) -> None:
    assert not only_tests_of_mxmoe(run_of(*args))


def test_tests_of_another_project_are_not_ours(tmp_path: Path) -> None:
    assert not only_tests_of_mxmoe(run_of("tests", folder=tmp_path))
