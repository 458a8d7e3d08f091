"""The questions that one run answered correctly and the other did not, with answers."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass

from mxmoe.evals.gate.answer_lines import AnswerLine
from mxmoe.evals.gate.paired import Paired
from mxmoe.evals.grade_school.frozen import load_test_problems

# The task whose questions ship with us; of another one the number must do.
_TASK = "grade_school"


@dataclass(frozen=True, kw_only=True)
class Flip:
    """One question that flipped.

    lost : whether it was the run that answered wrong. asked : the question, empty for a
    task that does not ship. baseline, run : what each wrote.
    """

    question: int
    lost: bool
    asked: str
    baseline: str
    run: str


def flips_of(
    paired: Paired,
    baselines: Sequence[Mapping[int, AnswerLine]],
    run: Mapping[int, AnswerLine],
    *,
    task: str,
) -> tuple[Flip, ...]:
    """The flips of a comparison, those that were lost first.

    Of several baselines the first that the run departs from is quoted.
    """
    asked = _asked(task)
    found = []
    for lost, questions in ((True, paired.lost), (False, paired.gained)):
        for question in map(int, questions):
            quoted = next(b[question] for b in baselines if b[question].correct is lost)
            found.append(
                Flip(
                    question=question,
                    lost=lost,
                    asked=asked(question),
                    baseline=quoted.text,
                    run=run[question].text,
                )
            )
    return tuple(found)


def _asked(task: str) -> Callable[[int], str]:
    problems = load_test_problems() if task == _TASK else ()
    return lambda n: problems[n].question if 0 <= n < len(problems) else ""
