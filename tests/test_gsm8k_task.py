"""GSM8K in lm-eval's words: prompts, few-shots, extraction, and the reference."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval", reason="needs the extra 'eval'")

from mxmoe.evals.gate.floor import last_number
from mxmoe.evals.gate.reference import load_reference
from mxmoe.evals.gate.task import Task
from mxmoe.evals.gsm8k.data import read_gsm8k
from mxmoe.evals.gsm8k.task import load_task
from mxmoe.evals.gsm8k.with_lm_eval import LmEvalGsm8k
from mxmoe.evals.gsm8k.with_lm_eval import harness

# datasets and lm-eval warn of their own dependencies.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def made_up(
    tmp_path_factory: pytest.TempPathFactory, write_gsm8k: Callable[[Path], Path]
) -> Path:
    return write_gsm8k(tmp_path_factory.mktemp("gsm8k"))


@pytest.fixture(scope="module")
def real(real_gsm8k: Path) -> Task:
    return load_task(real_gsm8k)


def test_the_few_shots_are_the_first_of_train_in_turns(made_up: Path) -> None:
    task = load_task(made_up)
    rows = read_gsm8k(made_up)
    for question, conversation in enumerate(task.conversations):
        assert [turn.role for turn in conversation] == ["user", "assistant"] * 5 + [
            "user"
        ]
        shown = [f"Question: {row.question}\nAnswer:" for row in rows.train[:5]]
        asked = f"Question: {rows.test[question].question}\nAnswer:"
        assert [turn.content for turn in conversation[::2]] == [*shown, asked]
        assert [turn.content for turn in conversation[1::2]] == [
            row.answer for row in rows.train[:5]
        ]


def test_the_messages_are_those_that_lm_eval_builds(made_up: Path) -> None:
    found = LmEvalGsm8k(read_gsm8k(made_up))
    found._task.build_all_requests(
        apply_chat_template=True,
        fewshot_as_multiturn=True,
        chat_template=lambda messages, **_: json.dumps(messages),
    )
    theirs = [json.loads(request.args[0]) for request in found._task.instances]
    ours = [[turn._asdict() for turn in c] for c in found.conversations]
    assert ours == theirs


@pytest.mark.parametrize(
    ("text", "extracted", "correct"),
    [
        ("10+12=<<10+12=22>>\n#### 22", "22", True),
        ("so the answer is $22.", "$22.", True),
        ("**22**", "22", True),
        ("\\boxed{22}", "22", True),
        ("#### 22\nThat took 3 steps", "3", False),
        ("#### 22.00", "22.00", False),
        ("", "[invalid]", False),
        ("!!!!", "[invalid]", False),
    ],
)
def test_the_last_number_counts_as_lm_eval_compares_it(
    made_up: Path, text: str, extracted: str, correct: bool
) -> None:
    task = load_task(made_up)
    assert task.extract(text) == extracted
    assert task.is_correct(0, text) is correct


def test_gold_answers_are_all_correct(real: Task) -> None:
    assert all(real.is_correct(n, gold) for n, gold in enumerate(real.golds))
    assert len(real.golds) == 1319


def test_repeating_the_last_number_scores_two_percent(real: Task) -> None:
    asked = [conversation[-1].content for conversation in real.conversations]
    echoed = [str(last_number(question)) for question in asked]
    assert sum(real.is_correct(n, text) for n, text in enumerate(echoed)) == 28
    # So does the whole question, whose last number lm-eval finds itself.
    assert sum(real.is_correct(n, text) for n, text in enumerate(asked)) == 28


@pytest.mark.parametrize("name", ["gsm8k-gpt-oss-120b", "gsm8k-gpt-oss-20b"])
def test_the_real_questions_make_the_protocol_of_the_reference(
    real: Task, name: str
) -> None:
    if harness() != "lm-eval 0.4.13":
        pytest.skip(f"the reference is of lm-eval 0.4.13, here is {harness()}")
    reference = load_reference(name)
    assert reference.differences(real.protocol("any weights")) == []


def test_other_questions_are_another_protocol(made_up: Path) -> None:
    found = load_task(made_up).protocol("any weights")
    differences: Any = load_reference("gsm8k-gpt-oss-120b").differences(found)
    assert "questions: expected 1319, found 3" in differences
    assert any(line.startswith("prompts_sha256") for line in differences)
