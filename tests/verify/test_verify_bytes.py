"""Right and wrong candidates on every layer and rank, and what is shown of them."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from mxmoe.conformance.commands.main import main
from mxmoe.conformance.rundir import read_run
from mxmoe.conformance.verdict import ExitCode
from mxmoe.conformance.verdict import Verdict
from mxmoe.conformance.verify.layer_lines import read_layers

TENSORS = (
    *("fc1_weights", "fc1_scales", "fc1_bias", "fc2_weights", "fc2_scales", "fc2_bias"),
    *("swiglu_alpha", "swiglu_beta", "swiglu_limit"),
)


def test_a_right_candidate_passes_on_every_layer_and_rank(
    verify: Any, candidate: Any, tmp_path: Path, log: Path
) -> None:
    code, printed = verify("--candidate", candidate(), "--ep", 2)
    assert code == ExitCode.PASS, printed
    assert "verdict: PASS 4 layers x 8 ranks by mine in trtllm_gen.v1" in printed
    labels = [f"tp4r{r}-ep2r{q}" for q in range(2) for r in range(4)]
    calls = [f"{n} {label}" for n in range(4) for label in labels]
    assert log.read_text().splitlines() == calls
    lines = read_layers(tmp_path / "run")
    assert list(lines) == list(range(4))
    assert [rank.shard for rank in lines[0].ranks] == labels
    run = read_run(tmp_path / "run")
    assert [line.verdict for line in run.verdicts] == [Verdict.OK] * 4
    assert run.run["command"] == "verify"
    assert run.run["exit_code"] == 0


def test_every_tensor_with_one_changed_byte_is_found_and_named(
    verify: Any, candidate: Any, tmp_path: Path
) -> None:
    """One tensor in each of nine preparations, its last byte."""
    planted = {f"{n // 4} tp4r{n % 4}": name for n, name in enumerate(TENSORS, 2)}
    path = candidate(
        f"""
        if at in {planted!r}:
            prepared[{planted!r}[at]].view(torch.uint8).flatten()[-1] ^= 1
        """
    )
    code, printed = verify("--candidate", path)
    assert code == ExitCode.FAIL, printed
    found = {
        f"{line.layer} {rank.shard}": rank.tensors
        for line in read_layers(tmp_path / "run").values()
        for rank in line.failed
    }
    assert found == {at: (name,) for at, name in planted.items()}
    for at, name in planted.items():
        layer, shard = at.split()
        assert f"FAILED layer {layer} {shard} {name}\n" in printed
    assert "verdict: FAIL layer 0 tp4r2 fc1_weights: 9 of 16 preparations" in printed
    assert "1 of 512 entries differ (0.195 %), first at [e=1, 255]" in printed
    assert f"--tp 4 --rank {3} --layers 0" in printed
    failed = [line for line in read_run(tmp_path / "run").verdicts if line.text]
    assert [line.verdict for line in failed] == [Verdict.MISMATCH] * 3


def test_other_faults_of_a_preparation_are_named_and_the_rest_goes_on(
    verify: Any, candidate: Any, log: Path
) -> None:
    path = candidate(
        """
        if at == "0 tp4r1":
            del prepared["fc2_bias"]
        if at == "1 tp4r2":
            prepared["fc1_bias"] = prepared["fc1_bias"].bfloat16()
        if at == "2 tp4r3":
            raise RuntimeError("no memory")
        if at == "3 tp4r0":
            prepared["fc1_scales"] = prepared["fc1_scales"].flatten(1)
        """
    )
    code, printed = verify("--candidate", path)
    assert code == ExitCode.FAIL
    assert len(log.read_text().splitlines()) == 16
    assert "expected a tensor 'fc2_bias' from prepare, found fc1_bias, " in printed
    assert "expected torch.float32 [2, 256], found torch.bfloat16" in printed
    assert "prepare raised RuntimeError: no memory" in printed
    assert "expected torch.uint8 [2, 256, 16], found torch.uint8 [2, 4096]" in printed


def test_what_a_candidate_writes_into_its_weights_does_not_change_the_expected(
    verify: Any, candidate: Any
) -> None:
    """It returns what it made of its own change, from the second rank on."""
    path = candidate("weights.down_bias[0, 0] += 1")
    code, printed = verify("--candidate", path, "--layers", 1)
    assert code == ExitCode.FAIL
    assert "verdict: FAIL layer 1 tp4r1 fc2_bias: 3 of 4 preparations" in printed


def test_json_is_one_document_whatever_the_candidate_prints(
    candidate: Any,
    arguments: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = candidate("print('noise')\nprepared['fc2_scales'][0, 0, 0] ^= layer == 1")
    words = arguments("--candidate", path, "--json")
    with pytest.raises(SystemExit):
        main(["verify", *words])
    document = json.loads(capsys.readouterr().out)
    assert document["verdict"].startswith("verdict: FAIL layer 1 tp4r0 fc2_scales")
    assert document["exit_code"] == ExitCode.FAIL
    assert [line["layer"] for line in document["layers"]] == list(range(4))
    assert document["layers"][1]["ranks"][0]["tensors"] == ["fc2_scales"]


def test_a_terminal_shows_a_bar(
    verify: Any, candidate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    master, slave = pty.openpty()
    chunks: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):  # how Linux says that nobody writes any more
            while chunk := os.read(master, 4096):
                chunks.append(chunk)

    reader = threading.Thread(target=read)
    reader.start()
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(slave, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        code, _ = verify("--candidate", candidate())
        monkeypatch.undo()
    reader.join(timeout=10)
    os.close(master)
    printed = b"".join(chunks).decode()
    assert code == ExitCode.PASS
    assert "━" in printed
    assert "/4" in printed
    assert "verdict: PASS" in printed
