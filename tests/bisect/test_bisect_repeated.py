"""Commits that answer differently when asked again."""

from __future__ import annotations

import itertools

import pytest

from mxmoe.evals.bisect.repeated import ask_repeatedly
from mxmoe.evals.bisect.step_code import Abort
from mxmoe.evals.bisect.step_code import Found
from mxmoe.evals.bisect.step_code import Step
from mxmoe.evals.bisect.step_code import StepCode

CODES = {"g": StepCode.GOOD, "b": StepCode.BAD, "s": StepCode.SKIP}


def asked(answers: str, *, repeat: int = 3, disagree: str = "skip") -> Step:
    runs = iter(answers)
    return ask_repeatedly(
        lambda: Found(code=CODES[next(runs)], reason="why"),
        repeat=repeat,
        disagree=disagree,
    )


@pytest.mark.parametrize(
    ("answers", "disagree", "wanted", "runs"),
    [
        ("ggg", "skip", "g", 3),
        ("bbb", "skip", "b", 2),
        ("sss", "skip", "s", 2),
        ("gsg", "skip", "s", 2),  # passing by chance accuses no other commit
        ("ggs", "skip", "s", 3),
        ("sbb", "skip", "b", 3),
        ("gbg", "skip", "s", 2),  # they contradict each other
        ("gsb", "skip", "s", 2),
        ("gbg", "majority", "g", 3),
        ("bgb", "majority", "b", 3),
        ("gsb", "majority", "s", 3),
        ("ggb", "bad", "b", 3),  # two good ones are no proof where one bad one is
        ("gbg", "bad", "b", 2),
        ("sbs", "bad", "b", 2),
    ],
)
def test_what_runs_come_to(answers: str, disagree: str, wanted: str, runs: int) -> None:
    step = asked(answers, disagree=disagree)
    assert (step.code, len(step.runs)) == (CODES[wanted], runs)
    assert step.flaky == (len(set(answers[:runs])) > 1)
    assert ("flaky" in step.reason) == step.flaky


def test_no_order_of_runs_makes_a_contradicted_commit_good_or_bad() -> None:
    for answers in itertools.product("gbs", repeat=5):
        step = asked("".join(answers), repeat=5)
        seen = {run.code for run in step.runs}
        if {StepCode.GOOD, StepCode.BAD} <= seen:
            assert step.code is StepCode.SKIP


def test_one_run_needs_no_second() -> None:
    assert len(asked("b", repeat=1).runs) == 1


def test_a_machine_that_fails_ends_the_search_at_once() -> None:
    def fails() -> Found:
        raise Abort("no GPU")

    with pytest.raises(Abort, match="no GPU"):
        ask_repeatedly(fails, repeat=3, disagree="skip")
