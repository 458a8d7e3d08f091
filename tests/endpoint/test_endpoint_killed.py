"""A gate that is killed by a signal goes on, and asks no answered question again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest

from mxmoe.evals.endpoint.attempts import read_attempts
from mxmoe.evals.gate.answer_lines import read_answers
from mxmoe.evals.gate.order import registered_order

AT_ONCE = 6


def start(server: Any, run: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "mxmoe.conformance.commands.main", "gate"),
            *("--endpoint", server.url, "--model", "served"),
            *("--concurrency", str(AT_ONCE), "--run-dir", str(run)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def wait_for(server: Any, requests: int, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 60
    while len(server.requests) < requests and process.poll() is None:
        assert time.monotonic() < end, "the gate asks nothing"
        time.sleep(0.005)


@pytest.mark.nightly
@pytest.mark.parametrize("kills", [1, 8])
def test_a_killed_gate_goes_on(server: Any, tmp_path: Path, kills: int) -> None:
    right, random, run = server.behaviour, Random(kills), tmp_path / "run"

    def behave(handler: Any, body: Any) -> None:
        time.sleep(random.random() * 0.03)
        right(handler, body)

    server.behaviour = behave
    asked: list[int] = []
    for _ in range(kills):
        server.requests.clear()
        process = start(server, run)
        wait_for(server, random.randrange(2, 25), process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kept = set(read_answers(run)) if (run / "answers.jsonl").exists() else set()
        asked += server.questions
        # What was asked and has no answer was in flight.
        assert len(set(asked) - kept) <= kills * AT_ONCE
    server.requests.clear()
    before = {a.question for a in read_attempts(run) if a.reply}
    process = start(server, run)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert "231 of 231 correct" in said
    assert not before & set(server.questions)
    answered = [a.question for a in read_attempts(run) if a.reply]
    assert len(answered) == len(set(answered))
    assert set(registered_order(1319, seed=0)[:231]) <= set(read_answers(run))
