"""``mxmoe history``: the gate's runs over time, and since when the score is lower."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mxmoe.conformance.commands.options import AsOneLineOnly
from mxmoe.conformance.verdict import ExitCode


def history(
    runs: Annotated[
        Path, typer.Argument(metavar="RUNS_DIR", help="folder of run directories")
    ],
    db: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="SQLite, rebuilt; default: RUNS_DIR/history.sqlite"
        ),
    ] = None,
    baseline: Annotated[
        int,
        typer.Option(
            min=8, help="full runs, from the first on, that later ones are compared to"
        ),
    ] = 8,
    last: Annotated[int, typer.Option(min=1, help="runs to list of each trend")] = 10,
    as_json: AsOneLineOnly = False,
) -> ExitCode:
    """List the runs of the gate below a folder and look for a drop of the score.

    Runs of one task, protocol, candidate, fault, dtype and device make one trend. Full
    runs (`mxmoe gate --full`) count as scores; after 8 of them a CUSUM says whether,
    and since which run, the score is lower. Run directories are only read; the
    database is a cache of them. A damaged directory is named and passed over.

    Exit codes: 0 no drop; 1 a drop; 2 usage or bad input; 3 no run of the gate.
    """
    import json

    from mxmoe.conformance.escape import printable
    from mxmoe.evals.history.database import rebuild
    from mxmoe.evals.history.scan import scan
    from mxmoe.evals.history.text import as_json as facts_of
    from mxmoe.evals.history.text import lines_of
    from mxmoe.evals.history.trend import trends

    scanned = scan(runs)
    found = list(trends(scanned.rows, baseline=baseline))
    rebuild(db or runs / "history.sqlite", scanned)
    if as_json:
        typer.echo(json.dumps(facts_of(scanned, found), allow_nan=False))
    else:
        for line in lines_of(scanned, found, last=last):
            typer.echo(printable(line))
    if not scanned.rows:
        return ExitCode.INVALID
    dropped = any(trend.seen is not None for trend in found)
    return ExitCode.FAIL if dropped else ExitCode.PASS
