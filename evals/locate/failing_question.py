"""A question that a run of the gate got wrong: its prompt and what was answered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mxmoe.conformance.rundir import read_run
from mxmoe.evals.gate.answer_lines import read_answers
from mxmoe.evals.gate.protocol import prompt_hash
from mxmoe.evals.grade_school.frozen import load_test_problems
from mxmoe.evals.grade_school.task import NAME as TASK
from mxmoe.reference.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class FailingQuestion:
    """Its number, the prompt with the answer that was given behind it, and what the
    run was asked for (see `mxmoe.evals.gate.options.Options`)."""

    number: int
    text: str
    options: Mapping[str, Any]


def failing_question(folder: Path, number: int | None) -> FailingQuestion:
    """Question `number` of a gate's run directory, or the first wrong one.

    Raises `BadInput` for another command's run, a question that is not there, and a
    run without a wrong answer.
    """
    run = read_run(folder)
    options = run.run.get("options")
    if run.run.get("command") != "gate" or not isinstance(options, dict):
        raise BadInput(
            f"{folder}: expected a run of mxmoe gate, "
            f"found one of {run.run.get('command')!r:.40}"
        )
    if options.get("task") != TASK:
        raise BadInput(
            f"{folder}: expected a run of {TASK}, whose prompts need no chat template, "
            f"found one of {options.get('task')!r:.40}"
        )
    answers = read_answers(folder)
    wrong = [line.question for line in answers.values() if not line.correct]
    if number is None and not wrong:
        # A candidate that raises or makes NaN leaves no line of its last questions.
        number = 0 if not answers else None
    chosen = wrong[0] if number is None and wrong else number
    problems = load_test_problems()
    if chosen is None:
        raise BadInput(f"{folder}: expected a wrong answer of {TASK}, found none")
    if not 0 <= chosen < len(problems):
        raise BadInput(f"--question: expected 0 to {len(problems) - 1}, found {chosen}")
    prompt, answer = problems[chosen].prompt, ""
    if chosen in answers:
        if answers[chosen].prompt_sha256 != prompt_hash(prompt):
            raise BadInput(
                f"{folder}: question {chosen}: expected the prompt of {TASK}, "
                "found another one's hash"
            )
        answer = answers[chosen].text
    return FailingQuestion(number=chosen, text=prompt + answer, options=options)
