"""What `mxmoe verify` refuses, in one sentence, before anything is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mxmoe.conformance.verdict import ExitCode

BAD: dict[str, tuple[tuple[object, ...], str]] = {
    "tp": (("--tp", 0), "--tp: expected at least 1, found 0"),
    "ep": (("--ep", -1), "--ep: expected at least 1, found -1"),
    "experts": (("--ep", 3), "expected a divisor of experts = 2, found 3"),
    "rank": (("--rank", 4), "--rank: expected 0 to 3 with --tp 4, found 4"),
    "layer": (("--layers", "0,4"), "--layers: expected 0 to 3, found 4"),
    "layout": (
        ("--layout", "trtllm"),
        "--layout: expected one of checkpoint.v1, trtllm_gen.v1, ",
    ),
    "declares another": (
        ("--candidate", "torch_dense"),
        "declares layout 'trtllm_gen.v1', found 'checkpoint.v1'",
    ),
    "no prepare": (
        ("--candidate", "hf_experts"),
        "hf_experts: expected a candidate that declares layout",
    ),
    "unwritable": (("--run-dir", "/proc/none"), "a folder that can be written"),
    "not a run": (("--run-dir", "{folder}"), "expected an empty or absent folder"),
    "device": (("--device", "tpu"), "--device: expected cpu or cuda, found 'tpu'"),
    "both": (("--hash", "a", "--write-hashes", "b"), "--write-hashes: expected a comp"),
    "no digests": (("--hash", "absent"), "absent: expected a file of digests, No such"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_one_sentence(
    verify: Any, candidate: Any, tmp_path: Path, what: str
) -> None:
    words, sentence = BAD[what]
    given = [str(word).format(folder=tmp_path) for word in words]
    code, printed = verify("--candidate", candidate(), *given)
    assert code == ExitCode.USAGE, printed
    assert sentence in printed
    assert printed.startswith("mxmoe: error: ")
    assert printed.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_no_checkpoint_no_candidate_and_no_prepare_are_bad_input(
    verify: Any, candidate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, printed = verify("--candidate", candidate(), of=tmp_path / "none")
    assert (code, "found none" in printed) == (ExitCode.USAGE, True)
    monkeypatch.delenv("MXMOE_CANDIDATE", raising=False)
    code, printed = verify("--layout", "flashinfer")
    assert code == ExitCode.USAGE
    assert "the bundled candidates that prepare flashinfer.v1 are none" in printed
    file = tmp_path / "forward.py"
    file.write_text(
        "class candidate:\n    name = 'f'\n"
        "    def forward(self, prepared, hidden_states, routing): ...\n"
    )
    code, printed = verify("--candidate", file)
    assert code == ExitCode.USAGE
    assert "expected prepare(weights, config, shard, device), found none" in printed


def test_the_one_bundled_candidate_of_a_layout_is_the_default(
    verify: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MXMOE_CANDIDATE", raising=False)
    code, printed = verify("--layout", "checkpoint", "--layers", "1,2")
    assert code == ExitCode.PASS
    assert "PASS 2 layers x 4 ranks by torch_dense in checkpoint.v1" in printed


def test_a_candidate_that_does_not_do_the_ranks_has_not_passed(
    verify: Any, candidate: Any, tmp_path: Path
) -> None:
    path = Path(candidate())
    path.write_text(path.read_text().replace('"any"', '"whole"'))
    code, printed = verify("--candidate", path)
    assert code == ExitCode.INVALID
    line = "verdict: INVALID mine did not run: capability shards: whole, not tp4r0"
    assert line in printed
    assert not (tmp_path / "run").exists()
