"""`grade_school` as the gate asks it: 0-shot, completed as it stands."""

from __future__ import annotations

from mxmoe.evals.gate.task import Task
from mxmoe.evals.gate.task import Turn
from mxmoe.evals.grade_school.answers import LONGEST_ANSWER
from mxmoe.evals.grade_school.answers import extract
from mxmoe.evals.grade_school.answers import is_correct
from mxmoe.evals.grade_school.frozen import SHA256
from mxmoe.evals.grade_school.frozen import load_test_problems

NAME = "grade_school"


def load_task() -> Task:
    """The frozen problems; `BadInput` if the file is not the frozen one."""
    problems = load_test_problems()
    return Task(
        name=NAME,
        version="1",
        conversations=tuple((Turn("user", p.prompt),) for p in problems),
        golds=tuple(problem.completion for problem in problems),
        questions_sha256=SHA256,
        few_shots=0,
        chat_template=False,
        output_tokens=LONGEST_ANSWER,
        stops=(),
        extraction="strict-match",
        harness="mxmoe",
        extract=extract,
        is_correct=lambda question, text: is_correct(problems[question], text),
    )
