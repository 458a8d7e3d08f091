"""A bisection as it goes on: a line a commit, and on a terminal what runs now."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import Progress
from rich.progress import SpinnerColumn
from rich.progress import TextColumn
from rich.progress import TimeElapsedColumn
from rich.text import Text

from mxmoe.conformance.escape import printable
from mxmoe.conformance.watched import watched
from mxmoe.evals.bisect.drive import AGAIN
from mxmoe.evals.bisect.drive import Heard
from mxmoe.evals.bisect.history import Commit
from mxmoe.evals.bisect.history import Standing
from mxmoe.evals.bisect.outcome import Judgement
from mxmoe.evals.bisect.step import BETWEEN
from mxmoe.evals.bisect.step_code import StepCode

_STYLES = {StepCode.GOOD: "green", StepCode.BAD: "red", StepCode.SKIP: "yellow"}
# "cannot be tested"
_WIDTH = 16


class Shown:
    """Prints to `console`, which does not wrap in a pipe."""

    def __init__(self, console: Console) -> None:
        self._console = console
        # No thread that draws: steps are forked from this process.
        self._bar = Progress(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            console=console,
            auto_refresh=False,
            transient=True,
            disable=not watched(console),
        )
        self._task = self._bar.add_task("", total=None)

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

    def heard(self) -> Heard:
        """What `drive` calls."""
        return Heard(before=self.before, after=self.after)

    def before(self, commit: Commit, role: str, standing: Standing | None) -> None:
        """A commit is about to be judged."""
        words = [f"judging {commit.short} {commit.subject}"]
        if role in ("good", "bad"):
            words.append(f"the {role} end")
        if standing is not None and standing.left is not None:
            steps = "1 step" if standing.steps == 1 else f"{standing.steps} steps"
            words.append(f"{standing.left} left, about {steps}")
        self._bar.reset(self._task, description=printable(" · ".join(words)))
        self._bar.refresh()

    def after(self, judgement: Judgement) -> None:
        """A commit was judged."""
        commit, code = judgement.commit, judgement.code
        reason = f" · {judgement.reason}" if judgement.reason else ""
        role = {BETWEEN: "", AGAIN: " (again)"}.get(
            judgement.role, f" ({judgement.role} end)"
        )
        known = " (known)" if judgement.known else ""
        text = f"{commit.short} {commit.subject}{role}{known}{reason}"
        # At once: the bar is drawn behind what is printed, and wiped with its line.
        line = Text(f"{code.word:{_WIDTH}} ", style=_STYLES[code])
        line.append(printable(text).replace("\n", " "), style="default")
        self._console.print(line)
