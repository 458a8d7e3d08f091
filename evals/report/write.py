"""The files of a report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from mxmoe.evals.report.as_json import as_json
from mxmoe.evals.report.build import build_report
from mxmoe.evals.report.document import Report
from mxmoe.evals.report.junit import junit
from mxmoe.evals.report.markdown import markdown
from mxmoe.evals.report.page import page
from mxmoe.reference.errors import BadInput


def write_report(report: Report, folder: Path) -> tuple[Path, ...]:
    """Write report.html, report.json, report.md and junit.xml; `BadInput` if it fails.

    A reader never sees half a file: each is renamed into its place.
    """
    files = {
        "report.html": page(report).encode(),
        "report.json": json.dumps(as_json(report), indent=1, allow_nan=False).encode(),
        "report.md": markdown(report).encode(),
        "junit.xml": junit(report),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            partial = folder / f"{name}.partial"
            partial.write_bytes(content)
            partial.replace(folder / name)
    except OSError as error:
        raise BadInput(
            f"{folder}: expected a folder that can be written, {error.strerror}"
        ) from error
    return tuple(folder / name for name in files)


def report_runs(folders: Sequence[Path], folder: Path) -> Path:
    """The entry point of the group ``mxmoe.reports``: the page of these runs."""
    page_file, *_ = write_report(build_report(folders), folder)
    return page_file
