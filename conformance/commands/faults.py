"""``mxmoe faults``: wrong candidates, and which check finds each of them."""

from __future__ import annotations

from typing import Annotated

import typer

from mxmoe.conformance.commands.options import AsDocument
from mxmoe.conformance.commands.options import RunDir
from mxmoe.conformance.verdict import ExitCode


def faults(
    candidate: Annotated[
        str | None,
        typer.Option(
            "--candidate",
            "-c",
            metavar="SPEC",
            help="a correct candidate to plant faults in: path/file.py:attr, "
            "package.module:attr or an installed name. Faults that lie inside of a "
            "candidate stay in our own plain one.",
        ),
    ] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="only this one, also path/file.py:function; repeatable",
        ),
    ] = None,
    keyword: Annotated[
        str, typer.Option("-k", metavar="WORD", help="only names that hold it")
    ] = "",
    seeds: Annotated[
        int, typer.Option(min=1, max=10000, help="other cases, other checkpoints")
    ] = 1,
    profile: Annotated[
        str, typer.Option(help="dev, ci, gpu or nightly: how many cases are drawn")
    ] = "ci",
    full: Annotated[
        bool,
        typer.Option(
            "--full",
            help="every check, also after the first catch; of mutants: also of "
            "survivors that are explained",
        ),
    ] = False,
    mutants: Annotated[
        int,
        typer.Option(
            min=0,
            max=100000,
            help="instead of planted faults: so many random edits of the source",
        ),
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="of the mutants")] = 0,
    run_dir: RunDir = None,
    as_json: AsDocument = False,
) -> ExitCode:
    """Plant faults in a correct candidate and see that the suite finds them.

    For each fault: first the check that must find it, then the others. Faults come from
    the entry point group mxmoe.faults.

    Exit codes: 0 pass; 1 fail: a fault survives, or with --mutants one that
    docs/mutants.md does not explain; 2 usage or bad input.
    """
    from mxmoe.conformance.faults.run import FaultOptions
    from mxmoe.conformance.faults.run import run_faults

    return run_faults(
        FaultOptions(
            candidate=candidate,
            faults=tuple(fault or ()),
            keyword=keyword,
            seeds=seeds,
            profile=profile,
            full=full,
            mutants=mutants,
            seed=seed,
        ),
        run_folder=run_dir,
        as_document=as_json,
    )
