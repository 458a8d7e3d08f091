"""Answers that wait, or that were in flight when a run was decided, do not count."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mxmoe.evals.gate.counted import counted_answers
from mxmoe.evals.gate.gate_run import read_gate_run
from mxmoe.evals.gate.order import registered_order
from mxmoe.reference.errors import BadInput

Write = Callable[..., Path]
ORDER = registered_order(100, seed=0)


def counts(folder: Path) -> tuple[int, int]:
    """(correct, answered) as read back, the same as the run was sealed with."""
    run = read_gate_run(folder)
    facts = json.loads((folder / "run.json").read_bytes())
    found = run.correct, len(run.answers)
    assert found == (facts["correct"], facts["answered"])
    return found


def test_an_answer_that_waits_for_one_before_it_does_not_count(
    write_gate_run: Write,
) -> None:
    marks = dict.fromkeys(ORDER[:20], True) | {ORDER[3]: False}
    marks |= dict.fromkeys(ORDER[21:40], True)
    assert counts(write_gate_run("run", marks, questions=100)) == (19, 20)


def test_an_answer_behind_the_one_that_decided_does_not_count(
    write_gate_run: Write,
) -> None:
    rule = {"asked": 100, "least_correct": 90}
    # 11 wrong ones cannot be made good.
    marks = dict.fromkeys(ORDER[:11], False) | dict.fromkeys(ORDER[11:30], True)
    given: dict[str, Any] = {"questions": 100, "rule": rule}
    correct, answered = counts(write_gate_run("early", marks, full=False, **given))
    assert correct == 0
    assert answered <= 11
    assert counts(write_gate_run("full", marks, **given)) == (19, 30)


def test_without_a_rule_nothing_can_be_counted(write_gate_run: Write) -> None:
    run = read_gate_run(write_gate_run("run", {}, questions=100))
    facts = dict(run.facts)
    for name in ("rule", "protocol", "options"):
        with pytest.raises(BadInput, match="expected the rule, protocol and options"):
            counted_answers({}, facts | {name: None}, "run.json")
