"""The score of a model on the frozen problems of `grade_school`."""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import binomtest

from mxmoe.conformance.verdict import Failure
from mxmoe.evals.grade_school.answers import LONGEST_ANSWER
from mxmoe.evals.grade_school.answers import is_correct
from mxmoe.evals.grade_school.problem import Problem
from mxmoe.evals.inside.experts import Inside
from mxmoe.evals.inside.generate import LENGTH
from mxmoe.evals.inside.generate import Answer
from mxmoe.evals.inside.generate import answers
from mxmoe.evals.inside.load import Loaded
from mxmoe.evals.inside.proof import Proof
from mxmoe.evals.inside.proof import proof


@dataclass(frozen=True, kw_only=True)
class Score:
    """What a model wrote, and which of it is right.

    answers : in the order of the problems. wrong : indices of the problems with another
    answer. proof : None for transformers' own experts.
    """

    answers: tuple[Answer, ...]
    wrong: tuple[int, ...]
    seconds: float
    proof: Proof | None

    @property
    def asked(self) -> int:
        """How many problems."""
        return len(self.answers)

    @property
    def correct(self) -> int:
        """How many correct answers."""
        return self.asked - len(self.wrong)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the share, exact (Clopper and Pearson, 1934)."""
        found = binomtest(self.correct, self.asked).proportion_ci(method="exact")
        return float(found.low), float(found.high)

    @property
    def truncated(self) -> tuple[int, ...]:
        """Problems whose answer did not end."""
        return tuple(a.index for a in self.answers if a.finish_reason == LENGTH)


def score(
    model: Loaded | Inside,
    problems: Sequence[Problem],
    *,
    batch: int,
    longest: int = LONGEST_ANSWER,
    each: Callable[[Answer, bool], None] = lambda answer, correct: None,
) -> Score:
    """Ask all problems, greedily; `each` hears of every answer as it ends.

    Raises `Failure` (nonfinite) for NaN or infinity in the logits, with the layer whose
    candidate returned it first. The caller looks at the proof.
    """
    inside = model if isinstance(model, Inside) else None
    loaded = model if isinstance(model, Loaded) else model.loaded
    prompts = [problem.prompt for problem in problems]
    begun, found = time.perf_counter(), {}
    try:
        for answer in answers(loaded, prompts, batch=batch, longest=longest):
            correct = is_correct(problems[answer.index], answer.text)
            found[answer.index] = answer, correct
            each(answer, correct)
    except Failure as failure:
        if inside is None:
            raise
        raise inside.with_layer(failure) from failure
    in_order = [found[index] for index in range(len(problems))]
    return Score(
        answers=tuple(answer for answer, _ in in_order),
        wrong=tuple(answer.index for answer, correct in in_order if not correct),
        seconds=time.perf_counter() - begun,
        proof=None if inside is None else proof(inside.passes, inside.experts),
    )
