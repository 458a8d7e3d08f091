"""``mxmoe check``: judge candidates and end with one line that begins ``verdict:``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mxmoe.conformance.commands.options import AsDocument
from mxmoe.conformance.commands.options import OwnDevice
from mxmoe.conformance.commands.options import RunDir
from mxmoe.conformance.verdict import ExitCode


def check(
    candidate: Annotated[
        list[str] | None,
        typer.Option(
            "--candidate",
            "-c",
            metavar="SPEC",
            help="path/file.py:attr, package.module:attr or an installed name; "
            "repeatable. Default: $MXMOE_CANDIDATE, else the bundled candidates.",
        ),
    ] = None,
    marker: Annotated[
        str,
        typer.Option(
            "-m", metavar="EXPR", help="bytewise, routing, numeric, state, or 'a and b'"
        ),
    ] = "",
    keyword: Annotated[
        str, typer.Option("-k", metavar="EXPR", help="only checks whose name matches")
    ] = "",
    maxfail: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="stop after so many failures"),
    ] = None,
    exitfirst: Annotated[
        bool, typer.Option("-x", "--exitfirst", help="stop at the first failure")
    ] = False,
    against: Annotated[
        str | None, typer.Option(metavar="SPEC", help="compare with this one directly")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="a gpt-oss MXFP4 folder. Default: embedded."),
    ] = None,
    layers: Annotated[
        str | None, typer.Option(help="'all' or 0,5,35. Default: all if small, else 3.")
    ] = None,
    case: Annotated[
        str | None,
        typer.Option(metavar="WORD", help="one case, as a failure prints it"),
    ] = None,
    device: OwnDevice = None,
    profile: Annotated[
        str | None,
        typer.Option(
            help="dev, ci, gpu or nightly: how many cases are drawn. "
            "Default: ci, with --b200 gpu."
        ),
    ] = None,
    b200: Annotated[
        bool,
        typer.Option(
            "--b200", help="the bundled adapters of B200 ops; see docs/run-on-b200.md"
        ),
    ] = False,
    isolate: Annotated[
        bool | None,
        typer.Option(
            "--isolate/--no-isolate",
            help="a process for each candidate, so that a crash or a hang is a "
            "verdict. Default: on a GPU.",
        ),
    ] = None,
    expected: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="known failures, TOML; see docs/reading-a-failure.md"
        ),
    ] = None,
    lenient_expected: Annotated[
        bool,
        typer.Option(
            "--lenient-expected",
            help="entries of it that match nothing, have expired or pass are warnings",
        ),
    ] = False,
    require_class: Annotated[
        str | None, typer.Option(metavar="NAME", help="pin the arithmetic class")
    ] = None,
    run_dir: RunDir = None,
    report_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="write the report of `mxmoe report` there as well (extra: report)",
        ),
    ] = None,
    as_json: AsDocument = False,
) -> ExitCode:
    """Judge candidates against the reference, level by level.

    The same checks as `pytest --pyargs mxmoe.conformance`. Bytes are compared byte for
    byte, numbers with a bound derived from the declared arithmetic class. Everything
    that was found stands in the run directory.

    Exit codes: 0 pass; 1 fail; 2 usage or bad input; 3 invalid: no requested check
    could be run, or the suite failed.
    """
    from mxmoe.conformance.suite.check_run import run_check
    from mxmoe.conformance.suite.session import Options

    return run_check(
        Options(
            candidates=tuple(candidate or ()),
            against=against,
            checkpoint=checkpoint,
            layers=layers,
            case=case,
            device=device,
            required_class=require_class,
            profile=profile or ("gpu" if b200 else "ci"),
            b200=b200,
            isolate=isolate,
            expected=expected,
            lenient_expected=lenient_expected,
        ),
        marker=marker,
        keyword=keyword,
        most_failures=1 if exitfirst else maxfail,
        run_folder=run_dir,
        report_folder=report_dir,
        as_json=as_json,
    )
