"""``mxmoe teacher-forced``: small faults that a task score does not show."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mxmoe.conformance.commands.options import AsLine
from mxmoe.conformance.commands.options import RunDir
from mxmoe.conformance.verdict import ExitCode
from mxmoe.evals.commands.model_options import Batch
from mxmoe.evals.commands.model_options import Data
from mxmoe.evals.commands.model_options import Device
from mxmoe.evals.commands.model_options import Dtype
from mxmoe.evals.commands.model_options import Fault
from mxmoe.evals.commands.model_options import TaskName


def teacher_forced(
    candidate: Annotated[
        str,
        typer.Option(
            "--candidate",
            "-c",
            metavar="SPEC",
            help="path/file.py:attr, package.module:attr, an installed name, or plain",
        ),
    ],
    fault: Fault = None,
    against: Annotated[
        str,
        typer.Option(
            metavar="SPEC",
            help="the other experts: transformers (its own), or a candidate",
        ),
    ] = "transformers",
    task: TaskName = "grade_school",
    data: Data = None,
    model: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="a gpt-oss folder; grade_school: the one that ships"
        ),
    ] = None,
    questions: Annotated[
        int, typer.Option(min=1, max=1319, help="of the fixed order, from its start")
    ] = 64,
    limit: Annotated[
        float | None,
        typer.Option(
            metavar="NATS",
            help="largest shift that passes; default: 0.1 for float32, 0.4 for "
            "bfloat16, measured on the model that ships",
        ),
    ] = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    batch: Batch = 64,
    run_dir: RunDir = None,
    as_json: AsLine = False,
) -> ExitCode:
    """Compare logits along the right answers, with the candidate and other experts.

    Nothing is sampled. Prints the mean negative log likelihood of the right answers in
    nats a token, the share of tokens on which both find the same token most likely,
    and the shift: how far the right tokens' margins over the others moved, in nats,
    root mean square. The shift decides; rounding moves it little, a fault in one late
    layer a lot.

    Exit codes: 0 pass; 1 fail: beyond the limit, NaN or infinity; 2 usage or bad input;
    3 invalid: the candidate did not or cannot run.
    """
    import json
    from dataclasses import asdict

    from mxmoe.conformance.escape import printable
    from mxmoe.conformance.rundir import new_run_id
    from mxmoe.reference.errors import BadInput

    if task != "grade_school" and model is None:
        raise BadInput(f"--task {task}: expected --model, found none")
    if dtype not in ("float32", "bfloat16"):
        raise BadInput(f"--dtype: expected float32 or bfloat16, found {dtype!r}")
    if limit is not None and not limit > 0:
        raise BadInput(f"--limit: expected nats above 0, found {limit}")
    try:
        from mxmoe.evals.gate.forced import table
        from mxmoe.evals.gate.forced_run import run_forced
        from mxmoe.evals.gate.options import Options
        from mxmoe.evals.grade_school.model import FOLDER
    except ModuleNotFoundError as error:
        raise BadInput(
            "teacher-forced: expected the extra 'hf' (pip install "
            f"'mxmoe-conformance[hf]'), found no {error.name}"
        ) from error
    folder = run_dir or Path("runs") / new_run_id()
    options = Options(
        candidate=candidate,
        fault=fault,
        task=task,
        data=data,
        dtype=dtype,
        device=device,
        batch=batch,
        model=model or FOLDER,
    )
    conclusion, score = run_forced(
        options, folder, questions=questions, against=against, limit=limit
    )
    for name, value in ({} if score is None else table(score)).items():
        typer.echo(f"{name:<7} {value}")
    for reason in conclusion.reasons:
        typer.echo(printable(reason))
    verdict = str(conclusion.verdict)
    shown = candidate if fault is None else f"{candidate} with fault {fault}"
    typer.echo(printable(f"run {folder}"))
    said = f"verdict: {verdict.upper()} {shown} on {task}, teacher-forced"
    typer.echo(printable(said))
    if as_json:
        facts = {
            "verdict": verdict,
            "reasons": conclusion.reasons,
            "score": None if score is None else asdict(score),
            "run": str(folder),
        }
        typer.echo(json.dumps(facts))
    return conclusion.verdict.exit_code
