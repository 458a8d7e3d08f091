"""From a gate that failed to the stage that is wrong: `mxmoe locate --run`."""

from __future__ import annotations

import json
from dataclasses import asdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="needs the extra 'hf'")

from mxmoe.conformance.commands.main import main
from mxmoe.conformance.registry import load_candidate
from mxmoe.conformance.verdict import ExitCode
from mxmoe.evals.gate.answer_lines import AnswerLine
from mxmoe.evals.gate.answer_lines import append_answer
from mxmoe.evals.gate.answer_lines import read_answers
from mxmoe.evals.gate.begun import begin
from mxmoe.evals.gate.begun import facts_of
from mxmoe.evals.gate.ended import end
from mxmoe.evals.gate.options import Options
from mxmoe.evals.gate.order import registered_order
from mxmoe.evals.gate.protocol import prompt_hash
from mxmoe.evals.gate.reference import load_reference
from mxmoe.evals.gate.verdict import Conclusion
from mxmoe.evals.gate.verdict import GateVerdict
from mxmoe.evals.grade_school.frozen import load_test_problems
from mxmoe.evals.locate.asked import Asked
from mxmoe.evals.locate.asked import options_of
from mxmoe.reference.types import ExpertWeights

FIRST, SECOND, *_ = registered_order(1319, seed=0)
WRONG = "7 7 7 7 7 7 7 7"
DENSE = load_candidate("torch_dense", device="cpu").candidate


@dataclass
class OneBias:
    """torch_dense with one wrong entry of a bias of its third layer."""

    name: str = "one_bias"
    prepared: int = 0

    def prepare(self, weights: ExpertWeights, *rest: Any) -> Any:
        changed = weights.clone()
        if self.prepared == 2:
            assert changed.gate_up_bias is not None
            changed.gate_up_bias[3, 17] += 0.5
        self.prepared += 1
        return DENSE.prepare(changed, *rest)

    def forward(self, *arguments: Any, tactic: object = None) -> Any:
        return DENSE.forward(*arguments)


# What `mxmoe locate` loads by this file's path.
candidate = OneBias()
FAULTY = Options(candidate=f"{__file__}:candidate")


def failed_run(folder: Path) -> Path:
    """What `mxmoe gate` leaves behind: one right answer, then a wrong one."""
    reference = load_reference("grade_school")
    writer = begin(folder, facts_of(FAULTY))
    writer.describe(protocol=asdict(reference.protocol), rule=asdict(reference.rule))
    for question, text in ((FIRST, "#### 7"), (SECOND, WRONG)):
        prompt = load_test_problems()[question].prompt
        line = AnswerLine(
            question=question,
            prompt_sha256=prompt_hash(prompt),
            text=text,
            extracted="7",
            correct=question == FIRST,
            tokens=8,
            finish_reason="stop",
            finite=True,
            seconds=0.1,
        )
        append_answer(folder, line)
    end(writer, Conclusion(GateVerdict.FAIL, ("as if",)))
    return folder


def locate(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    with pytest.raises(SystemExit) as ended:
        main(["locate", *map(str, words), "--json"])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert ended.value.code == found["exit_code"] == ExitCode.FAIL
    return found


def asked_for(located: Path) -> list[str]:
    facts = json.loads((located / "run.json").read_bytes())
    return list(facts["options"]["asked"])


def test_the_candidate_of_a_failed_gate_is_located_on_the_question_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = failed_run(tmp_path / "run")
    given = ("--run", run, "--question", FIRST, "--run-dir", tmp_path / "located")
    [one] = locate(capsys, *given)["found"]
    place = [one[name] for name in ("layer", "stage", "expert", "column")]
    assert place == [2, "gate_up", 3, 17]
    assert asked_for(tmp_path / "located")[-2:] == ["--question", str(FIRST)]


def test_without_a_number_the_first_wrong_answer_is_taken(tmp_path: Path) -> None:
    options = options_of(Asked(run=failed_run(tmp_path / "run")))
    prompt = load_test_problems()[SECOND].prompt
    assert options.prompts == (prompt + WRONG,)
    assert options.candidate == FAULTY.candidate
    assert options.expects_failure


@pytest.mark.nightly
def test_a_gate_that_just_failed_is_located(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    fault = ("--candidate", "plain", "--fault", "bias_not_shuffled_fc1")
    with pytest.raises(SystemExit) as ended:
        main(["gate", *fault, "--run-dir", str(run)])
    assert ended.value.code == ExitCode.FAIL
    capsys.readouterr()
    wrong = [q for q, line in read_answers(run).items() if not line.correct]
    given = ("--run", run, "--question", wrong[-1], "--run-dir", tmp_path / "located")
    found = locate(capsys, *given, "--first")["found"]
    assert [(one["layer"], one["stage"]) for one in found] == [(0, "gate_up")]
    assert "gate_up_bias is not in the weights' row order" in found[0]["sentence"]
    assert str(wrong[-1]) in asked_for(tmp_path / "located")
