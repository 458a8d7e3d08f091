"""Ask questions until the verdict is sound; every answer is kept as it comes."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mxmoe.evals.gate.answer_lines import AnswerLine
from mxmoe.evals.gate.answer_lines import append_answer
from mxmoe.evals.gate.answer_lines import resume_answers
from mxmoe.evals.gate.evidence import DELTA
from mxmoe.evals.gate.evidence import Decision
from mxmoe.evals.gate.evidence import Standing
from mxmoe.evals.gate.evidence import weigh
from mxmoe.evals.gate.order import InOrder
from mxmoe.evals.gate.rule import Rule

# Asked first: one alone, then a few. A broken kernel is found by five answers, and a
# batch of one runs other code than a large one.
_FIRST_BATCHES = (1, 7)

Ask = Callable[[Sequence[int]], Iterator[AnswerLine]]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """order : the registered one. batch : questions asked at once after the first."""

    rule: Rule
    order: tuple[int, ...]
    batch: int
    delta: float = DELTA
    full: bool = False


@dataclass
class Progress:
    """Where a run stands, and the answers that have counted, in order."""

    standing: Standing
    counted: list[AnswerLine]


def ask_until_decided(
    plan: Plan,
    ask: Ask,
    run: Path,
    *,
    heard: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Go on from the answers in `run` until the plan's rule is decided.

    ask : answers the questions it is given, each once, in any order. A question counts
    when all before it in the plan's order have; those in flight when a run is killed
    are asked again, and no others. Raises `BadInput` for an answer nobody asked for.
    """
    waiting: InOrder[AnswerLine] = InOrder(plan.order)
    progress = Progress(_weigh(plan, []), [])

    def count(line: AnswerLine) -> bool:
        """Take one answer; whether the run is decided."""
        for _question, freed in waiting.finish(line.question, line):
            if progress.standing.decision is not Decision.GO_ON:
                break
            progress.counted.append(freed)
            progress.standing = _weigh(plan, progress.counted)
        heard(progress)
        return progress.standing.decision is not Decision.GO_ON

    decided = False
    for line in resume_answers(run).values():
        decided = count(line) or decided
    sizes = iter(_FIRST_BATCHES)
    while not decided:
        size = min(plan.batch, next(sizes, plan.batch))
        for line in ask(waiting.missing[:size]):
            append_answer(run, line)
            decided = count(line)
            if decided:
                break
    return progress


def _weigh(plan: Plan, counted: Sequence[AnswerLine]) -> Standing:
    correct = sum(line.correct for line in counted)
    return weigh(plan.rule, len(counted), correct, delta=plan.delta, full=plan.full)
