"""``mxmoe compare``: is a run of the gate worse than its baseline?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mxmoe.conformance.commands.options import AsOneLineOnly
from mxmoe.conformance.verdict import ExitCode


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="BASELINE... RUN",
            help="run directories of mxmoe gate; the last is judged by the others",
        ),
    ],
    across: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WHAT",
            help="compare although this differs; repeatable: candidate, protocol, "
            "model, dtype, device or questions",
        ),
    ] = None,
    alpha: Annotated[
        float,
        typer.Option(help="chance of a false alarm, one-sided, above 0 to 0.5"),
    ] = 0.01,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="a run directory for mxmoe report"),
    ] = None,
    as_json: AsOneLineOnly = False,
) -> ExitCode:
    """Compare runs on the same questions, question by question.

    Says which questions flipped, whether the run is worse (exact McNemar test; with
    several baselines its extension), the net drop in percentage points with its 95 %
    interval, and the smallest drop that 80 % of such comparisons would have found.

    Runs of another candidate, protocol, model, dtype or device, or with other questions
    answered, are refused unless --across names what may differ.

    Exit codes: 0 not worse; 1 worse; 2 usage, or no run of the gate; 3 refused; 4
    inconclusive: no drop at all could have been found.
    """
    import json

    from mxmoe.conformance.escape import printable
    from mxmoe.conformance.rundir import open_run
    from mxmoe.evals.gate.comparison import compare_runs
    from mxmoe.evals.gate.comparison_text import lines_of
    from mxmoe.evals.gate.gate_run import read_gate_run
    from mxmoe.reference.errors import BadInput

    if len(runs) < 2:
        raise BadInput(
            f"compare: expected a baseline and a run, found {len(runs)} folder"
        )
    *baselines, run = [read_gate_run(folder) for folder in runs]
    found = compare_runs(baselines, run, across=across or (), alpha=alpha)
    lines = list(lines_of(found))
    if out is not None:
        open_run(out).describe(
            command="compare", verdict=lines[-1], compared=found.as_json()
        )
    if as_json:
        typer.echo(json.dumps(found.as_json(), allow_nan=False))
    else:
        for line in lines:
            typer.echo(printable(line))
    return found.exit_code
