"""The seed's 90.37 % -> 2.05 % in miniature: the gate on the model that ships."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="needs the extra 'hf'")

from mxmoe.conformance.faults.catalogue import installed_faults
from mxmoe.evals.gate import run as gate_run
from mxmoe.evals.gate.answer_lines import read_answers
from mxmoe.evals.gate.begun import begin
from mxmoe.evals.gate.begun import facts_of
from mxmoe.evals.gate.ended import end
from mxmoe.evals.gate.evidence import Decision
from mxmoe.evals.gate.evidence import weigh
from mxmoe.evals.gate.options import Options
from mxmoe.evals.gate.options import load_subject
from mxmoe.evals.gate.reference import load_reference
from mxmoe.evals.gate.rule import Rule
from mxmoe.evals.gate.run import run_gate
from mxmoe.evals.gate.verdict import Conclusion
from mxmoe.evals.gate.verdict import GateVerdict
from mxmoe.evals.inside.experts import Inside
from mxmoe.reference.errors import BadInput


def cheaper_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule that eight correct answers decide; what is asked stays the same."""
    monkeypatch.setattr(
        "mxmoe.evals.gate.rule.ReferenceTest.rule", lambda self: Rule(1319, 8)
    )


def test_a_correct_candidate_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cheaper_rule(monkeypatch)
    options = Options(candidate="trtllm_gen", batch=8)
    found = run_gate(options, tmp_path / "run")
    assert found.verdict is GateVerdict.PASS
    answered = read_answers(tmp_path / "run")
    facts = json.loads((tmp_path / "run" / "run.json").read_bytes())
    assert facts["verdict"] == "pass"
    again = run_gate(options, tmp_path / "run")
    assert again == found
    assert read_answers(tmp_path / "run") == answered


@pytest.mark.parametrize(
    "fault",
    [
        "biases_not_shuffled",
        pytest.param("fc2_bias_not_shuffled", marks=pytest.mark.nightly),
    ],
)
def test_biases_in_another_row_order_fail_within_ten_questions(
    tmp_path: Path, fault: str
) -> None:
    found = run_gate(Options(candidate="trtllm_gen", fault=fault), tmp_path / "run")
    assert found.verdict is GateVerdict.FAIL
    assert found.reasons[1].startswith("broken numerics")
    assert len(read_answers(tmp_path / "run")) <= 10


def test_nan_in_the_experts_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(put: Callable[..., Inside]) -> Callable[..., Inside]:
        def inside(*arguments: Any) -> Inside:
            found = put(*arguments)
            layer = found.experts[2]
            forward = layer.subject.candidate.forward
            monkeypatch.setattr(
                layer.subject.candidate,
                "forward",
                lambda *a, **o: forward(*a, **o) * float("nan"),
            )
            return found

        return inside

    monkeypatch.setattr(gate_run, "put_inside", broken(gate_run.put_inside))
    found = run_gate(Options(candidate="torch_dense"), tmp_path / "run")
    assert found.verdict is GateVerdict.FAIL
    assert "NaN or infinity" in found.reasons[0]


def test_a_verdict_is_not_improved_by_asking_again(tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = Options(candidate="torch_dense")
    end(
        begin(run, facts_of(options)),
        Conclusion(GateVerdict.FAIL, ("logits: found NaN",)),
    )
    found = run_gate(options, run)
    assert found.verdict is GateVerdict.FAIL
    assert found.reasons == ("logits: found NaN",)
    assert read_answers(run) == {}


def test_a_run_of_another_kernel_is_not_gone_on_with(tmp_path: Path) -> None:
    kernel = tmp_path / "kernel.py"
    text = "from mxmoe.kernels.torch_dense import candidate\n"
    kernel.write_text(text, encoding="utf-8")
    options = Options(candidate=f"{kernel}:candidate")
    begin(tmp_path / "run", facts_of(options))
    kernel.write_text(text + "# repaired\n", encoding="utf-8")
    with pytest.raises(BadInput, match="expected an empty folder or a run of these"):
        run_gate(options, tmp_path / "run")


def test_a_layer_without_the_candidate_is_no_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = gate_run.put_inside

    def bypassed(*arguments: Any) -> Inside:
        found = put(*arguments)
        # What a fallback leaves behind: passes of the model without a call.
        found.experts[1].calls -= 1
        return found

    monkeypatch.setattr(gate_run, "put_inside", bypassed)
    found = run_gate(Options(candidate="torch_dense"), tmp_path / "run")
    assert found.verdict is GateVerdict.INVALID
    assert found.reasons[0].startswith("layer 1: expected")
    assert read_answers(tmp_path / "run") == {}


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    options = Options(candidate="torch_dense", model=tmp_path)
    with pytest.raises(BadInput, match=r"config\.json: expected a readable file"):
        run_gate(options, tmp_path / "run")


def test_the_page_says_how_many_answers_suffice() -> None:
    ours, theirs = load_reference("grade_school").test.rule(), Rule(1319, 1149)
    found = [
        next(
            count
            for count in range(1, rule.asked)
            if weigh(rule, count, count * right).decision is not Decision.GO_ON
        )
        for right in (1, 0)
        for rule in (ours, theirs)
    ]
    page = Path(__file__).parents[1] / "docs" / "gate.md"
    assert (
        "every answer is right, {} suffice under this rule, and {} under that of "
        "GSM8K; if every answer is wrong, {} and {} (".format(*found)
    ) in page.read_text("utf-8")


def test_another_order_of_questions_is_another_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mxmoe.evals.gate.task.ORDER_SEED", 1)
    found = run_gate(Options(candidate="torch_dense"), tmp_path / "run")
    assert found.verdict is GateVerdict.INVALID
    assert found.reasons == ("other protocol: order_seed: expected 0, found 1",)


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    begin(tmp_path / "run", facts_of(Options(candidate="torch_dense")))
    with pytest.raises(BadInput, match="expected an empty folder or a run of these"):
        run_gate(Options(candidate="trtllm_gen"), tmp_path / "run")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("bias_not_shuffled", "close to biases_not_shuffled"),
        ("bias_not_shuffled_fc1", "inside of our own plain candidate"),
    ],
)
def test_a_fault_that_cannot_be_planted_says_why(
    tmp_path: Path, fault: str, said: str
) -> None:
    with pytest.raises(BadInput, match=said):
        run_gate(Options(candidate="trtllm_gen", fault=fault), tmp_path / "run")


def test_a_candidate_that_cannot_run_here_is_no_verdict(tmp_path: Path) -> None:
    candidate = tmp_path / "needs_a_gpu.py"
    candidate.write_text(
        "from types import SimpleNamespace\n"
        "from mxmoe.kernels.torch_dense import candidate as base\n"
        "candidate = SimpleNamespace(name='needs_a_gpu', prepare=base.prepare,\n"
        "    forward=base.forward, unavailable=lambda: 'needs a B200')\n",
        encoding="utf-8",
    )
    options = Options(candidate=f"{candidate}:candidate")
    found = run_gate(options, tmp_path / "run")
    assert found.verdict is GateVerdict.INVALID
    assert found.verdict.exit_code == 3
    assert found.reasons == ("the candidate cannot run here: needs a B200",)
    assert run_gate(options, tmp_path / "run") == found


@pytest.mark.nightly
def test_a_fault_inside_the_plain_candidate_is_judged_there(tmp_path: Path) -> None:
    options = Options(candidate="plain", fault="bias_not_shuffled_fc1")
    found = run_gate(options, tmp_path / "run")
    assert found.verdict is GateVerdict.FAIL, found


def test_every_fault_of_the_catalogue_can_be_planted_in_plain_or_says_why() -> None:
    refused = []
    for name in installed_faults():
        try:
            load_subject(Options(candidate="plain", fault=name))
        except BadInput as reason:
            refused.append((name, str(reason)))
    assert {reason.partition(": expected ")[2] for _, reason in refused} <= {
        "a loader of the layout of plain, found another layout's"
    }
    assert len(refused) < len(installed_faults()) / 4
