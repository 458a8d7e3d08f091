"""A gate that was killed, cut or corrupted never ends with another score."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("transformers", reason="needs the extra 'hf'")

from mxmoe.evals.gate import run as gate_run
from mxmoe.evals.gate.answer_lines import FILE
from mxmoe.evals.gate.answer_lines import AnswerLine
from mxmoe.evals.gate.answer_lines import read_answers
from mxmoe.evals.gate.gate_run import read_gate_run
from mxmoe.evals.gate.options import Options
from mxmoe.evals.gate.protocol import prompt_hash
from mxmoe.evals.gate.reference import load_reference
from mxmoe.evals.gate.run import run_gate
from mxmoe.evals.gate.task import Task
from mxmoe.evals.gate.verdict import Conclusion
from mxmoe.evals.gate.verdict import GateVerdict
from mxmoe.reference.errors import BadInput

TOKENS = load_reference("grade_school").baseline.tokens or ()
# 64 right answers in a row are enough.
OPTIONS = Options(candidate="torch_dense", threshold=87.1, batch=16)


class Killed(Exception):
    """What stands in for a signal: nothing of the gate catches it."""


class Gold:
    """In the place of the model: writes the right answer, but to every fortieth."""

    dies_after = 10**9
    asked: Sequence[int] = ()

    def __init__(self, _inside: Any, task: Task, prompts: Sequence[str]) -> None:
        self.task, self.prompts = task, prompts

    def __call__(self, questions: Sequence[int]) -> Iterator[AnswerLine]:
        for question in random.Random(0).sample(questions, len(questions)):
            if not Gold.dies_after:
                raise Killed
            Gold.dies_after -= 1
            Gold.asked = [*Gold.asked, question]
            text = "#### 0" if question % 40 == 0 else self.task.golds[question]
            yield AnswerLine(
                question=question,
                prompt_sha256=prompt_hash(self.prompts[question]),
                text=text,
                extracted=self.task.extract(text),
                correct=self.task.is_correct(question, text),
                tokens=TOKENS[question],
                finish_reason="stop",
                finite=True,
                seconds=0.0,
            )


@pytest.fixture
def without_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = SimpleNamespace(chat_template=None)
    inside = SimpleNamespace(loaded=SimpleNamespace(tokenizer=tokenizer), experts=())
    monkeypatch.setattr(gate_run, "_inside", lambda options, subject: inside)
    monkeypatch.setattr(gate_run, "Asked", Gold)
    monkeypatch.setattr(Gold, "dies_after", 10**9)
    monkeypatch.setattr(Gold, "asked", ())


def begun(folder: Path, monkeypatch: pytest.MonkeyPatch, answers: int) -> None:
    monkeypatch.setattr(Gold, "dies_after", answers)
    with pytest.raises(Killed):
        run_gate(OPTIONS, folder)
    monkeypatch.setattr(Gold, "dies_after", 10**9)


def written(folder: Path) -> tuple[str, list[str]]:
    facts = json.loads((folder / "run.json").read_bytes())
    return facts["verdict"], facts["reasons"]


def damage(folder: Path, seed: int) -> str:
    """Flip a bit, cut a file, remove one, or add bytes to its end."""
    at = random.Random(seed)
    path = at.choice([folder / FILE, folder / "run.json"])
    before = path.read_bytes()
    place = at.randrange(len(before))
    kind = at.choice(["flip", "cut", "remove", "add"])
    if kind == "flip":
        changed = bytearray(before)
        changed[place] ^= 1 << at.randrange(8)
        path.write_bytes(bytes(changed))
    elif kind == "cut":
        path.write_bytes(before[:place])
    elif kind == "remove":
        path.unlink()
    else:
        path.write_bytes(before + before[place : place + 40])
    return f"{kind} {path.name} at {place}"


def check_damage(
    folder: Path, monkeypatch: pytest.MonkeyPatch, seeds: range, *, ended: bool
) -> None:
    right = folder / "right"
    truth = run_gate(OPTIONS, right)
    source = right
    if not ended:
        source = folder / "begun"
        begun(source, monkeypatch, 30)
    outcomes = {"refused": 0, "the same": 0}
    for seed in seeds:
        run = folder / f"run-{seed}"
        shutil.copytree(source, run)
        what = damage(run, seed)
        try:
            found: Conclusion | None = run_gate(OPTIONS, run)
        except BadInput:
            outcomes["refused"] += 1
            continue
        outcomes["the same"] += 1
        assert found == truth, f"seed {seed}: {what}"
        assert written(run) == written(right), f"seed {seed}: {what}"
    assert outcomes["refused"] > len(seeds) / 4, outcomes


@pytest.mark.usefixtures("without_a_model")
@pytest.mark.parametrize("ended", [False, True])
def test_a_damaged_run_is_refused_or_repaired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    check_damage(tmp_path, monkeypatch, range(10), ended=ended)


@pytest.mark.nightly
@pytest.mark.usefixtures("without_a_model")
@pytest.mark.parametrize("ended", [False, True])
def test_a_damaged_run_is_refused_or_repaired_at_many_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    check_damage(tmp_path, monkeypatch, range(100, 160), ended=ended)


@pytest.mark.usefixtures("without_a_model")
def test_a_run_that_died_goes_on_without_losing_or_doubling_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = run_gate(OPTIONS, tmp_path / "right")
    run = tmp_path / "run"
    for answers in (0, 1, 5, 9):
        begun(run, monkeypatch, answers)
    monkeypatch.setattr(Gold, "asked", ())
    before = set(read_answers(run))
    assert len(before) == 15
    assert run_gate(OPTIONS, run) == truth
    assert not before & set(Gold.asked)
    assert written(run) == written(tmp_path / "right")


@pytest.mark.usefixtures("without_a_model")
def test_answers_of_another_run_are_not_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    begun(run, monkeypatch, 10)
    lines = (run / FILE).read_bytes().splitlines(keepends=True)
    (run / FILE).write_bytes(b"".join([*lines, lines[0]]))
    with pytest.raises(BadInput, match="expected one answer a question"):
        run_gate(OPTIONS, run)


@pytest.mark.usefixtures("without_a_model")
def test_a_run_killed_in_its_first_write_begins_anew(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json.partial").write_text('{"schema": 1, "i', encoding="utf-8")
    assert run_gate(OPTIONS, run).verdict is GateVerdict.PASS


def wait_for_lines(path: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    """Until a file has so many lines, or the process that writes it has ended."""
    while process.poll() is None:
        if count == 0 or (path.exists() and path.read_bytes().count(b"\n") >= count):
            return
        time.sleep(0.02)


@pytest.mark.nightly
def test_the_command_survives_sigkill_at_random_times(tmp_path: Path) -> None:
    at = random.Random(20)
    command = [sys.executable, "-m", "mxmoe.conformance.commands.main", "gate"]
    command += ["--candidate", "torch_dense", "--threshold", "87.1", "--batch", "4"]
    right, run = tmp_path / "right", tmp_path / "run"
    assert subprocess.run([*command, "--run-dir", right], check=False).returncode == 0
    kept: dict[int, AnswerLine] = {}
    for _ in range(6):
        process = subprocess.Popen([*command, "--run-dir", run])
        # Counted in answers, not in seconds: a busy machine is as far as an idle one.
        wait_for_lines(run / FILE, len(kept) + at.randrange(12), process)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(at.uniform(0, 1))
        assert process.poll() is None, "it ended before it could be killed"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        now = read_answers(run)
        assert {q: now[q] for q in kept} == kept
        kept = now
    assert subprocess.run([*command, "--run-dir", run], check=False).returncode == 0
    assert written(run) == written(right)
    now = read_answers(run)
    assert {q: now[q] for q in kept} == kept
    # Those in flight at the end differ, as other questions are asked together.
    ours, theirs = read_gate_run(run).answers, read_gate_run(right).answers
    assert ours.keys() == theirs.keys()
    assert all(ours[q].text == theirs[q].text for q in ours)
