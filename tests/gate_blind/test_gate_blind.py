"""Faults that no catalogue has, end to end: none passes, and each is told in words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra 'hf'")

from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts

from mxmoe.evals.gate.options import Options
from mxmoe.evals.gate.run import run_gate
from mxmoe.evals.gate.verdict import Conclusion
from mxmoe.evals.gate.verdict import GateVerdict
from mxmoe.evals.inside.experts import IMPLEMENTATION

# 1 to 25 s each.
pytestmark = pytest.mark.nightly

CANDIDATES = Path(__file__).parent / "blind_candidates.py"
_NOT_ONCE = "calls of the candidate, one for each forward pass, found"
_NAN = "expected finite ones, found NaN or infinity in"
_WORSE, _BROKEN = "regression: the model answers", "broken numerics"


@pytest.fixture(autouse=True)
def _undone() -> Iterator[None]:
    """A candidate runs in this process, and some change more than their result."""
    forward, function = GptOssExperts.forward, ALL_EXPERTS_FUNCTIONS[IMPLEMENTATION]
    yield
    GptOssExperts.forward = forward
    ALL_EXPERTS_FUNCTIONS.register(IMPLEMENTATION, function)
    torch.set_default_dtype(torch.float32)


def gate(name: str, folder: Path) -> Conclusion:
    return run_gate(Options(candidate=f"{CANDIDATES}:{name}"), folder / "run")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("OnlyInDecode", _BROKEN),
        ("OnlyInBatches", _WORSE),
        ("OnlyInPrefill", _WORSE),
        ("NanInOneLayer", "the candidate returned NaN or infinity in layer 2"),
        ("NanMadeZero", _BROKEN),
        ("NanLate", _NAN),
        ("Huge", _NAN),
        ("TailTile", ""),
        ("StaleOutput", ""),
        ("OneLayersWeights", _BROKEN),
        ("WrongAfterAWhile", _WORSE),
        ("AFifthWrong", _WORSE),
        ("Noise", ""),
        ("SaysNothing", "answers were cut at the output limit"),
        ("RaisesLate", "forward raised RuntimeError: CUDA error"),
        ("Leaves", "forward raised SystemExit: 0"),
        ("OtherShape", "expected torch.bfloat16 [41, 192]"),
        ("Nothing", "forward returned NoneType, expected a tensor [41, 192]"),
    ],
)
def test_a_wrong_candidate_fails(name: str, said: str, tmp_path: Path) -> None:
    found = gate(name, tmp_path)
    assert found.verdict is GateVerdict.FAIL, found
    assert any(said in reason for reason in found.reasons), found


@pytest.mark.parametrize(
    "name", ["Bypass", "BypassOneLayer", "BypassSometimes", "HookReplaced"]
)
def test_a_model_that_computes_elsewhere_is_no_verdict(
    name: str, tmp_path: Path
) -> None:
    found = gate(name, tmp_path)
    assert found.verdict is GateVerdict.INVALID, found
    assert _NOT_ONCE in found.reasons[0]


def test_a_call_that_hangs_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mxmoe.conformance.subject.CALL_SECONDS", 1.0)
    found = gate("Hangs", tmp_path)
    assert found == Conclusion(GateVerdict.FAIL, ("forward did not return in 1 s",))


@pytest.mark.parametrize("name", ["HalfABatchAtATime", "KeptByContent"])
def test_an_odd_way_to_the_right_result_passes(name: str, tmp_path: Path) -> None:
    found = gate(name, tmp_path)
    assert found.verdict is GateVerdict.PASS, found
