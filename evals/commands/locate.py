"""``mxmoe locate``: from "it is wrong" to layer, stage, expert, row and column."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mxmoe.conformance.commands.options import AsDocument
from mxmoe.conformance.commands.options import RunDir
from mxmoe.conformance.verdict import ExitCode
from mxmoe.evals.commands.model_options import Fault


def locate(
    candidate: Annotated[
        str | None,
        typer.Option(
            "--candidate",
            "-c",
            metavar="SPEC",
            help="path/file.py:attr, package.module:attr or an installed name",
        ),
    ] = None,
    fault: Fault = None,
    fault_layer: Annotated[
        int | None, typer.Option(metavar="N", help="plant it in this layer alone")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="a gpt-oss checkpoint. Default: the shipped one; with --dumps none.",
        ),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="what to run, repeatable"),
    ] = None,
    tokens: Annotated[
        list[str] | None,
        typer.Option(metavar="1,2,3", help="the same as token ids, repeatable"),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="a run of `mxmoe gate`: its candidate, a wrong answer"
        ),
    ] = None,
    question: Annotated[
        int | None,
        typer.Option(metavar="N", help="which question of --run. Default: first wrong"),
    ] = None,
    dumps: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="REFERENCE CANDIDATE",
            help="two folders of stages taken in another engine, see docs/locate.md",
        ),
    ] = None,
    arithmetic: Annotated[
        str | None,
        typer.Option(
            "--class", metavar="NAME", help="arithmetic class of --dumps with --model"
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="of the model: float32 (default) or bfloat16"),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu (default), cuda or auto")
    ] = None,
    only_first: Annotated[
        bool, typer.Option("--first", help="stop behind the first wrong layer")
    ] = False,
    run_dir: RunDir = None,
    as_json: AsDocument = False,
) -> ExitCode:
    """Find the first divergence: layer, stage, expert, (token, slot) row, column.

    The reference serves the model once; then the candidate is judged in each layer
    alone, on what the reference gave that layer, each stage on its own input and by the
    derived bound. The candidate's prepared bytes come first, where their layout is
    known. Then why: a bias in another row order, a scale byte, a K block, a factor.
    A wrong layer behind the first is named too.

    Exit codes: 0 nothing found; 1 found; 2 bad input; 3 the candidate, or the model
    without it, does not run; 4 nothing found where --run says that there is something.
    """
    import contextlib
    import json
    import sys

    from mxmoe.conformance.escape import printable
    from mxmoe.evals.locate.asked import Asked
    from mxmoe.evals.locate.asked import located
    from mxmoe.evals.locate.shown import show_lines
    from mxmoe.evals.locate.shown import shown

    asked = Asked(
        candidate=candidate,
        fault=fault,
        fault_layer=fault_layer,
        model=model,
        prompts=tuple(prompt or ()),
        tokens=tuple(tokens or ()),
        run=run,
        question=question,
        dumps=dumps,
        arithmetic=arithmetic,
        dtype=dtype,
        device=device,
        only_first=only_first,
    )
    # What candidates print is not part of our document.
    with contextlib.redirect_stdout(sys.stderr), shown() as heard:
        result = located(asked, run_dir, heard)
    if as_json:
        facts = {**result.facts, "exit_code": int(result.code)}
        typer.echo(json.dumps(facts))
    else:
        show_lines([printable(line) for line in result.lines], result.code)
    return result.code
