"""The predicate that is a score: questions answered with the candidate inside.

The questions are the first ones of the gate's registered order. At the ends all are
asked; between them, until it is certain enough on which side of half way all would
end. A release gate is no predicate: most regressions lie on one side of it.
"""

from __future__ import annotations

from dataclasses import asdict
from dataclasses import dataclass
from pathlib import Path

from mxmoe.conformance.registry import load_candidate
from mxmoe.conformance.rundir import RunWriter
from mxmoe.conformance.rundir import VerdictLine
from mxmoe.conformance.rundir import open_run
from mxmoe.conformance.subject import Subject
from mxmoe.conformance.verdict import Failure
from mxmoe.conformance.verdict import Verdict
from mxmoe.evals.bisect.half_way import BELOW
from mxmoe.evals.bisect.half_way import CHECK
from mxmoe.evals.gate.asking import Plan
from mxmoe.evals.gate.asking import Progress
from mxmoe.evals.gate.asking import ask_until_decided
from mxmoe.evals.gate.evidence import Decision
from mxmoe.evals.gate.order import registered_order
from mxmoe.evals.gate.prompts import prompts_of
from mxmoe.evals.gate.rule import Rule
from mxmoe.evals.gate.run import Asked
from mxmoe.evals.gate.run import DidNotRun
from mxmoe.evals.gate.task import ORDER_SEED
from mxmoe.evals.gate.tasks import load_task
from mxmoe.evals.grade_school.model import FOLDER
from mxmoe.evals.grade_school.task import NAME
from mxmoe.evals.inside.experts import put_inside
from mxmoe.evals.inside.load import DTYPES
from mxmoe.evals.inside.load import load


@dataclass(frozen=True, kw_only=True)
class ByScore:
    """questions : how many. least_correct : half way; None: ask all, judge nothing."""

    candidate: str
    device: str
    questions: int
    least_correct: int | None
    batch: int = 64

    def __call__(self, folder: Path) -> None:
        """Judge into `folder`, with the answers and ``score`` in ``run.json``."""
        subject = load_candidate(self.candidate, device=self.device)
        writer = open_run(folder)
        writer.describe(command="bisect-step", options=asdict(self))
        try:
            progress = self._ask(subject, folder)
        except DidNotRun as reason:
            _write(writer, subject, Verdict.NOT_RUN, str(reason))
            return
        except Failure as failure:
            _write(writer, subject, failure.verdict, failure.text)
            return
        right = [line.question for line in progress.counted if line.correct]
        answered = len(progress.counted)
        writer.describe(
            score={"correct": len(right), "answered": answered, "right": right}
        )
        below = (
            self.least_correct is not None
            and progress.standing.decision is Decision.FAIL
        )
        said = BELOW if below else f"{len(right)} of {answered} correct"
        _write(writer, subject, Verdict.MISMATCH if below else Verdict.OK, said)

    def _ask(self, subject: Subject, folder: Path) -> Progress:
        task = load_task(NAME, None)
        dtype = DTYPES["float32"]
        loaded = load(FOLDER, dtype=dtype, device=self.device, experts=False)
        prompts = prompts_of(task, loaded.tokenizer)
        plan = Plan(
            rule=Rule(self.questions, self.least_correct or 1),
            order=registered_order(len(prompts), seed=ORDER_SEED)[: self.questions],
            batch=self.batch,
            full=self.least_correct is None,
        )
        asked = Asked(put_inside(loaded, subject), task, prompts)
        return ask_until_decided(plan, asked, folder)


def _write(writer: RunWriter, subject: Subject, verdict: Verdict, said: str) -> None:
    writer.verdict(
        VerdictLine(
            check=f"bisect::{CHECK}",
            candidate=subject.name,
            level="L5",
            verdict=verdict,
            reason="" if verdict.failed else said,
            text=f"{subject.name} · {CHECK}\n{said}" if verdict.failed else "",
        )
    )
