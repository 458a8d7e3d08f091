"""`mxmoe check --b200`: which candidates it takes, and how it ends without a B200."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from mxmoe.conformance.commands.check import check
from mxmoe.conformance.registry import bundled_names
from mxmoe.conformance.registry import load_candidate
from mxmoe.conformance.registry import op_names
from mxmoe.conformance.rundir import Run
from mxmoe.conformance.rundir import read_run
from mxmoe.reference.errors import BadInput

WITHOUT_B200 = not (
    torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 10
)


def test_the_names_of_the_ops_tell_what_nobody_has_executed() -> None:
    assert op_names() == ["flashinfer_op", "trtllm_op"]
    assert not set(op_names()) & set(bundled_names())
    for name in (*op_names(), *bundled_names()):
        execution = load_candidate(name).capabilities.execution
        assert (execution == "unexecuted") == (name in op_names()), name


@pytest.mark.parametrize(
    "options", [{"candidate": ["torch_dense"]}, {"device": "cpu"}], ids=str
)
def test_it_chooses_candidates_and_device_itself(options: dict[str, object]) -> None:
    with pytest.raises(BadInput, match="--b200: expected no --"):
        check(b200=True, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def ended(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[subprocess.CompletedProcess[str], Run]:
    folder = tmp_path_factory.mktemp("b200")
    code = "from mxmoe.conformance.commands.main import main; main()"
    arguments = ["check", "--b200", "-k", "zero_tokens", "--run-dir", "run"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done, read_run(folder / "run")


@pytest.mark.skipif(not WITHOUT_B200, reason="this machine has a B200")
def test_without_a_b200_each_candidate_says_why_and_the_run_is_invalid(
    ended: tuple[subprocess.CompletedProcess[str], Run],
) -> None:
    done, run = ended
    assert done.returncode == 3, done.stdout + done.stderr
    *sentences, where, verdict = done.stdout.splitlines()
    assert [line.split(": ")[:2] for line in sentences] == [
        ["not available", "flashinfer_op"],
        ["not available", "trtllm_op"],
    ]
    assert where == "run run"
    assert verdict == "verdict: INVALID none of the requested checks ran"
    assert run.run["options"]["profile"] == "gpu"


def test_the_run_directory_says_on_what_it_ran(
    ended: tuple[subprocess.CompletedProcess[str], Run],
) -> None:
    _, run = ended
    assert {"device", "sm", "driver"} <= run.run.keys()
    assert {"torch", "tensorrt_llm", "flashinfer-python"} <= run.run["versions"].keys()
    executions = {c["name"]: c["execution"] for c in run.run["candidates"]}
    assert executions == dict.fromkeys(("flashinfer_op", "trtllm_op"), "unexecuted")
