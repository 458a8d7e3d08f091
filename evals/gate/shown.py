"""Progress of a gate on a terminal: score, evidence, expected questions to go."""

from __future__ import annotations

from types import TracebackType

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn
from rich.progress import Progress as Bar
from rich.progress import TextColumn
from rich.progress import TimeElapsedColumn

from mxmoe.conformance.watched import watched
from mxmoe.evals.gate.asking import Progress
from mxmoe.evals.gate.risk import questions_to_go
from mxmoe.evals.gate.risk import stopping_boundaries
from mxmoe.evals.gate.rule import Rule


class Shown:
    """Hears of a run's progress; shows it where standard error is a terminal.

    full : whether the run asks all questions, whatever is certain.
    """

    def __init__(self, *, full: bool = False) -> None:
        self._full = full
        console = Console(stderr=True)
        # Together at most 79 characters, for whom a terminal has 80.
        self._bar = Bar(
            TimeElapsedColumn(),
            TextColumn("{task.fields[correct]} of {task.completed:.0f} correct"),
            BarColumn(bar_width=6),
            TextColumn("{task.description}"),
            console=console,
            disable=not watched(console),
            transient=True,
        )
        self._task = self._bar.add_task("", total=None, correct=0)
        self._to_go: NDArray[np.float64] | None = None

    def __enter__(self) -> Shown:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def __call__(self, rule: Rule, progress: Progress) -> None:
        """Show where a run stands."""
        if self._bar.disable:
            return
        standing = progress.standing
        left = self._left(rule, standing.answered, standing.correct)
        said = (
            f"~{left:.0f} to go; odds pass {_odds(standing.log_pass)}, "
            f"fail {_odds(standing.log_fail)}"
        )
        self._bar.update(
            self._task,
            completed=standing.answered,
            total=standing.answered + left,
            description=said,
            correct=standing.correct,
        )

    def _left(self, rule: Rule, answered: int, correct: int) -> float:
        """Questions to go: all that are out, or as many as are expected."""
        if self._full:
            return rule.asked - answered
        if self._to_go is None:
            self._to_go = questions_to_go(stopping_boundaries(rule))
        return float(self._to_go[answered, correct])


def _odds(log_evidence: float) -> str:
    return f"{np.exp(np.clip(log_evidence, -20, 20)):.1g}"
