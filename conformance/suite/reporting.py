"""Reports of a run that other packages write; they come in by entry points.

An entry point of the group ``mxmoe.reports`` names a function (run directories, folder
to write to) that returns the page it has written.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from mxmoe.reference.errors import BadInput

GROUP = "mxmoe.reports"

Reporting = Callable[[Sequence[Path], Path], Path]


def find_reports() -> list[Reporting]:
    """All installed ones; `BadInput` if there is none, or one lacks a library."""
    found: list[Reporting] = []
    for entry in metadata.entry_points(group=GROUP):
        try:
            found.append(entry.load())
        except ModuleNotFoundError as error:
            raise BadInput(
                "--report-dir: expected the extra 'report' (pip install "
                f"'mxmoe-conformance[report]'), found no {error.name}"
            ) from error
    if not found:
        raise BadInput(
            f"--report-dir: expected an entry point of the group {GROUP}, found none"
        )
    return found
