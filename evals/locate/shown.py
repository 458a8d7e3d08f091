"""What a search is doing, and what it came to, on a terminal; plain in a pipe."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence

from rich.console import Console
from rich.progress import Progress
from rich.progress import SpinnerColumn
from rich.progress import TextColumn
from rich.progress import TimeElapsedColumn
from rich.text import Text

from mxmoe.conformance.verdict import ExitCode
from mxmoe.conformance.watched import watched

_STYLES = {ExitCode.PASS: "bold green", ExitCode.FAIL: "bold red"}


@contextlib.contextmanager
def shown() -> Iterator[Callable[[str], None]]:
    """A function to call with what is being done."""
    console = Console(stderr=True, markup=False, highlight=False)
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not watched(console),
    )
    task = bar.add_task("", total=None)
    with bar:
        yield lambda doing: bar.update(task, description=doing)


def show_lines(lines: Sequence[str], code: ExitCode) -> None:
    """The verdict first, in colour where there is one; `lines` are harmless text."""
    console = Console(file=sys.stdout, markup=False, highlight=False, emoji=False)
    verdict, *rest = lines
    console.print(Text(verdict, style=_STYLES.get(code, "bold yellow")), soft_wrap=True)
    for line in rest:
        console.print(Text(line), soft_wrap=True)
