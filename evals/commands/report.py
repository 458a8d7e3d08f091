"""``mxmoe report``: one page, and three files for programs, from run directories."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mxmoe.conformance.verdict import ExitCode


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="run directories of any command"),
    ],
    baseline: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="a gate's run: each gate is compared with it"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="default: report/ in the first run"),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="the content of report.json instead of words")
    ] = False,
) -> ExitCode:
    """Write what runs have found as one HTML page, JSON, JUnit XML and Markdown.

    report.html needs no network and no other file; report.md fits into a comment on a
    pull request. Give runs of check, verify, faults, gate, bench and others together:
    each fills its sections, and an empty section names the command that would. From
    nine whole gates of one candidate on, change points are looked for.

    Exit codes: 0 written, whatever it says; 2 bad input.
    """
    import json

    from mxmoe.conformance.escape import printable
    from mxmoe.reference.errors import BadInput

    try:
        from mxmoe.evals.report.as_json import as_json as plain
        from mxmoe.evals.report.build import build_report
        from mxmoe.evals.report.write import write_report
    except ModuleNotFoundError as error:
        raise BadInput(
            "report: expected the extra 'report' (pip install "
            f"'mxmoe-conformance[report]'), found no {error.name}"
        ) from error
    made = build_report(runs, baseline=baseline)
    files = write_report(made, out or runs[0] / "report")
    if as_json:
        typer.echo(json.dumps(plain(made), allow_nan=False))
        return ExitCode.PASS
    for one in made.statements:
        typer.echo(printable(f"{one.candidate}: {one.answer}. {one.reason}"))
    for file in files:
        typer.echo(printable(f"wrote {file}"))
    return ExitCode.PASS
