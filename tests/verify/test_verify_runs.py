"""Runs that are killed, continued, split over processes."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from mxmoe.conformance.rundir import read_run
from mxmoe.conformance.verdict import ExitCode
from mxmoe.conformance.verify.layer_lines import read_layers

COMMAND = "mxmoe.conformance.commands.main"
TORCHRUN = (
    *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
    *("-m", COMMAND, "verify"),
)


def test_a_killed_run_goes_on_and_repeats_no_finished_layer(
    verify: Any, candidate: Any, arguments: Any, child: Any, tmp_path: Path, log: Path
) -> None:
    killed = tmp_path / "killed"
    path = candidate(
        f"""
        if at == "2 tp4r1" and not os.path.exists({str(killed)!r}):
            Path({str(killed)!r}).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    words = arguments("--candidate", path)
    done = child("-m", COMMAND, "verify", *words)
    assert done.returncode == -signal.SIGKILL
    assert list(read_layers(tmp_path / "run")) == [0, 1]
    # What a process leaves that is killed while it writes.
    part = tmp_path / "run" / "layers.0.jsonl"
    with part.open("a") as file:
        file.write('{"layer": 2, "ranks": [{"sha')
    assert list(read_layers(tmp_path / "run")) == [0, 1]
    log.unlink()
    code, printed = verify("--candidate", path)
    assert code == ExitCode.PASS, printed
    assert "continued: 2 of 4 layers" in printed
    assert "verdict: PASS 4 layers x 4 ranks" in printed
    assert {line.split()[0] for line in log.read_text().splitlines()} == {"2", "3"}
    assert all(json.loads(line) for line in part.read_text().splitlines())
    log.unlink()
    code, printed = verify("--candidate", path)
    assert (code, log.exists()) == (ExitCode.PASS, False), "nothing was left to do"


CHANGES: dict[str, tuple[str, tuple[object, ...]]] = {
    "tp": ("tp: expected 2 as asked for now, found a run begun with 4", ("--tp", 2)),
    "ep": ("ep: expected 2", ("--ep", 2)),
    "rank": ("rank: expected 1", ("--rank", 1)),
    "layout": (
        "layout: expected 'checkpoint.v1' as asked for now, "
        "found a run begun with 'trtllm_gen.v1'",
        ("--layout", "checkpoint", "--candidate", "torch_dense"),
    ),
    "digests": ("digests: expected True", ("--write-hashes", "digests.json")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_of_anything_else_is_not_continued(
    verify: Any, candidate: Any, tmp_path: Path, change: str
) -> None:
    words = ("--candidate", candidate(), "--layers", 0)
    assert verify(*words)[0] == ExitCode.PASS
    sentence, changed = CHANGES[change]
    code, printed = verify(*words, *changed)
    assert code == ExitCode.USAGE
    assert sentence in printed
    assert list(read_layers(tmp_path / "run")) == [0]


def test_a_run_of_another_candidate_or_checkpoint_is_not_continued(
    verify: Any, candidate: Any, other: Path
) -> None:
    words = ("--candidate", candidate(), "--layers", 0)
    assert verify(*words)[0] == ExitCode.PASS
    code, printed = verify(*words, "--candidate", candidate("pass", name="edited.py"))
    assert (code, "candidate_file: expected" in printed) == (ExitCode.USAGE, True)
    code, printed = verify(*words, of=other)
    assert (code, "checkpoint: expected" in printed) == (ExitCode.USAGE, True)


def test_torchrun_splits_the_layers_and_one_process_reports(
    candidate: Any, arguments: Any, child: Any, tmp_path: Path
) -> None:
    """With a fault in a layer of the second process."""
    path = candidate("prepared['fc2_bias'][1, 7] += at == '3 tp4r2'")
    run = tmp_path / "run"
    done = child(*TORCHRUN, *arguments("--candidate", path))
    assert done.returncode != 0
    parts = {p.name: p.read_text().splitlines() for p in run.glob("layers.*.jsonl")}
    found = {
        name: [json.loads(line)["layer"] for line in lines]
        for name, lines in parts.items()
    }
    assert found == {"layers.0.jsonl": [0, 2], "layers.1.jsonl": [1, 3]}
    assert done.stdout.count("verdict:") == 1
    assert "verdict: FAIL layer 3 tp4r2 fc2_bias: 1 of 16" in done.stdout
    assert "first at [e=1, 7]" in done.stdout
    facts = read_run(run).run
    assert facts["exit_code"] == ExitCode.FAIL, facts


def test_a_process_of_torchrun_that_dies_ends_in_a_verdict(
    candidate: Any, arguments: Any, child: Any, tmp_path: Path
) -> None:
    path = candidate(
        """
        if layer == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        if layer == 2:  # until torchrun has noticed
            import time
            time.sleep(60)
        """
    )
    run = tmp_path / "run"
    done = child(*TORCHRUN, *arguments("--candidate", path))
    assert done.returncode != 0
    line = "verdict: INVALID layers 2, 3 are missing: stopped by Terminated"
    assert line in done.stdout, done.stdout + done.stderr
    assert read_run(run).run["exit_code"] == ExitCode.INVALID


def test_layers_that_no_process_finishes_in_time_are_named(
    verify: Any, candidate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process is on a host that never came up."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, printed = verify("--candidate", candidate(), "--wait", 0.3)
    assert code == ExitCode.INVALID
    assert "INVALID layers 1, 3 are missing: no process finished one" in printed
    monkeypatch.delenv("WORLD_SIZE")
    code, printed = verify("--candidate", candidate())
    assert code == ExitCode.PASS, "one process alone does what is missing"
