"""``mxmoe replay``: repeat the failure that a bundle holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mxmoe.conformance.commands.options import AsDocument
from mxmoe.conformance.verdict import ExitCode


def replay(
    bundle: Annotated[
        Path, typer.Argument(metavar="BUNDLE", help="a folder under runs/<id>/bundles")
    ],
    candidate: Annotated[
        str | None,
        typer.Option(
            "--candidate",
            "-c",
            metavar="SPEC",
            help="judge this one instead. Default: the one that failed.",
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="where the checkpoint is now, if the bundle lacks it"
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda. Default: as it failed.")
    ] = None,
    isolate: Annotated[
        bool | None,
        typer.Option(
            "--isolate/--no-isolate",
            help="a process for the candidate. Default: as it failed.",
        ),
    ] = None,
    as_json: AsDocument = False,
) -> ExitCode:
    """Repeat the check that failed, on the inputs that the bundle kept.

    Prints the failure as it is now, or that the check passes now. A bundle holds data
    only: the candidate is loaded by its name or path, as `mxmoe check` does.

    Exit codes: 0 the check passes now; 1 it fails, as it did or otherwise; 2 usage or
    bad input; 3 invalid: it cannot be run here.
    """
    from mxmoe.conformance.bundles.replay import run_replay

    return run_replay(
        bundle,
        candidate=candidate,
        checkpoint=checkpoint,
        device=device,
        isolate=isolate,
        as_json=as_json,
    )
