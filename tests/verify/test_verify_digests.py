"""Digests are of verified bytes, and find a changed one later."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mxmoe.conformance.verdict import ExitCode
from mxmoe.conformance.verify.tensor_digests import digest
from mxmoe.reference.layouts import TRTLLM_GEN
from mxmoe.reference.types import GPT_OSS_20B

TENSORS = set(TRTLLM_GEN.names(GPT_OSS_20B))


def test_digests_of_verified_bytes_find_a_changed_byte_later(
    verify: Any, candidate: Any, other: Path, tmp_path: Path, log: Path
) -> None:
    file, good = tmp_path / "digests.json", candidate()
    code, _ = verify("--candidate", good, "--write-hashes", file)
    assert code == ExitCode.PASS
    stored = json.loads(file.read_text())["digests"]
    assert set(stored["3"]["tp4r3"]) == TENSORS
    again = ("--run-dir", tmp_path / "again", "--hash", file)
    code, printed = verify("--candidate", good, *again)
    assert code == ExitCode.PASS
    assert "verdict: PASS 4 layers x 4 ranks" in printed
    assert "by their digests" in printed
    assert len(log.read_text().splitlines()) == 2 * 16
    bad = candidate(
        """
        if at == "2 tp4r1":
            prepared["fc1_weights"][1, 3, 5] ^= 128
        """,
        name="bad.py",
    )
    words = ("--candidate", bad, "--hash", file)
    code, printed = verify(*words, "--run-dir", tmp_path / "bad")
    assert code == ExitCode.FAIL
    assert "verdict: FAIL layer 2 tp4r1 fc1_weights: 1 of 16 preparations" in printed
    code, printed = verify(*words, "--run-dir", tmp_path / "other", of=other)
    assert (code, "checkpoint: expected" in printed) == (ExitCode.USAGE, True)
    code, printed = verify(*words, "--run-dir", tmp_path / "tp2", "--tp", 2)
    assert (code, "tp: expected 2, found 4" in printed) == (ExitCode.USAGE, True)


def test_bytes_that_differ_leave_no_digests(
    verify: Any, candidate: Any, tmp_path: Path
) -> None:
    file = tmp_path / "digests.json"
    path = candidate("prepared['fc1_bias'][0, 0] += 1")
    code, _ = verify("--candidate", path, "--layers", 0, "--write-hashes", file)
    assert code == ExitCode.FAIL
    assert not file.exists()


@pytest.mark.parametrize("text", ["", "[]", '{"digests": 3}', '{"schema": 1}'])
def test_a_file_that_holds_no_digests_is_refused(
    verify: Any, candidate: Any, tmp_path: Path, text: str
) -> None:
    file = tmp_path / "digests.json"
    file.write_text(text)
    code, printed = verify("--candidate", candidate(), "--hash", file)
    assert code == ExitCode.USAGE
    assert f"{file}: expected a file of digests, found " in printed


def test_a_digest_is_of_the_raw_bytes_in_c_order() -> None:
    tensor = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    for found in (tensor, tensor.T, tensor[1:, ::2], tensor[:0], tensor[0, 3]):
        raw = found.contiguous().numpy().tobytes()
        assert digest(found) == hashlib.sha256(raw).hexdigest()
