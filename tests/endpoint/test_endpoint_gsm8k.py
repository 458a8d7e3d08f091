"""GSM8K at an endpoint: few-shots arrive as turns, and other requests are no score."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval", reason="needs the extra 'eval'")

from mxmoe.conformance.commands.main import main
from mxmoe.evals.endpoint import task as endpoint_task
from mxmoe.evals.gate.answer_lines import read_answers
from mxmoe.evals.gate.floor import last_number
from mxmoe.evals.gsm8k.data import read_gsm8k

# lm-eval takes 10 s to begin.
pytestmark = [pytest.mark.nightly, pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def said_by(server: Any, real_gsm8k: Path) -> Callable[[Callable[..., str]], None]:
    """Lets the server answer with what a function makes of a row of the test set."""
    rows = {f"Question: {row.question}": row for row in read_gsm8k(real_gsm8k).test}

    def let(answer: Callable[..., str]) -> None:
        def behave(handler: Any, body: Any) -> None:
            asked = body["messages"][-1]["content"].removesuffix("\nAnswer:")
            text = answer(rows[asked])
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            usage = {"prompt_tokens": 900, "completion_tokens": len(text.split())}
            handler.send_json(
                {"model": body["model"], "choices": [choice], "usage": usage}
            )

        server.behaviour = behave

    return let


@pytest.fixture
def gate(
    server: Any, real_gsm8k: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """The command's exit code and output, with more arguments."""

    def run(*more: str, data: Path = real_gsm8k) -> tuple[int, str]:
        where = ("--endpoint", server.url, "--model", "served", "--data", str(data))
        which = ("--task", "gsm8k", "--reference", "gsm8k-gpt-oss-120b")
        folder = ("--run-dir", str(tmp_path / "run"))
        with pytest.raises(SystemExit) as ended:
            main(["gate", *which, *where, *folder, *more])
        return int(str(ended.value.code)), capsys.readouterr().out

    return run


def test_gold_answers_pass_and_the_requests_are_the_protocol(
    server: Any,
    said_by: Callable[..., None],
    gate: Callable[..., tuple[int, str]],
    tmp_path: Path,
) -> None:
    said_by(lambda row: row.answer)
    code, said = gate()
    assert (code, said.splitlines()[0]) == (
        0,
        "64 of 64 correct; 1149 of 1319 pass, and going on changes the verdict in 1 of "
        "1000 at most",
    )
    assert "the prompt after the server's template" in said
    assert all(line.correct for line in read_answers(tmp_path / "run").values())
    shots = {json.dumps(body["messages"][:-1]) for body in server.requests}
    assert len(shots) == 1
    for body in server.requests:
        roles = [turn["role"] for turn in body.pop("messages")]
        assert roles == ["user", "assistant"] * 5 + ["user"]
        assert body == {
            "model": "served",
            "temperature": 0.0,
            "max_tokens": 8192,
            "stop": ["Question:", "</s>", "<|im_end|>"],
        }


def test_repeating_the_last_number_is_broken_numerics(
    said_by: Callable[..., None], gate: Callable[..., tuple[int, str]]
) -> None:
    said_by(lambda row: f"The answer is {last_number(row.question)}.")
    code, said = gate()
    assert code == 1
    assert "broken numerics: no better than repeating the question's last" in said


def test_completions_in_the_place_of_chat_are_another_protocol(
    server: Any, gate: Callable[..., tuple[int, str]]
) -> None:
    code, said = gate("--api", "completions")
    assert (code, server.requests) == (3, [])
    assert "other protocol: chat_template: expected True, found False" in said


def test_another_reasoning_effort_is_another_protocol(
    server: Any, gate: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = endpoint_task.load_task
    monkeypatch.setattr(
        endpoint_task,
        "load_task",
        lambda *given: replace(right(*given), reasoning_effort="low"),
    )
    endpoint_task.load_endpoint_task.cache_clear()
    try:
        code, said = gate()
    finally:
        endpoint_task.load_endpoint_task.cache_clear()
    assert (code, server.requests) == (3, [])
    assert "other protocol: reasoning_effort: expected None, found 'low'" in said


def test_other_questions_are_another_protocol(
    server: Any,
    gate: Callable[..., tuple[int, str]],
    tmp_path: Path,
    write_gsm8k: Callable[[Path], Path],
) -> None:
    code, said = gate(data=write_gsm8k(tmp_path))
    assert (code, server.requests) == (3, [])
    assert "other protocol: questions: expected 1319, found 3" in said
