"""``mxmoe gate``: the task score with a candidate inside, decided soundly and early."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mxmoe.conformance.verdict import ExitCode


def gate(
    candidate: Annotated[
        str,
        typer.Option(
            "--candidate",
            "-c",
            metavar="SPEC",
            help="path/file.py:attr, package.module:attr, an installed name, or plain",
        ),
    ],
    task: Annotated[str, typer.Option(help="grade_school or gsm8k")] = "grade_school",
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR|FILE",
            help="GSM8K: test.jsonl and train.jsonl; default: MXMOE_GSM8K, or the hub",
        ),
    ] = None,
    fault: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="plant this fault first, as `mxmoe faults` names them"
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="a gpt-oss folder; grade_school: the one that ships"
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            metavar="PERCENT", help="pass from this score on, whatever the reference"
        ),
    ] = None,
    dtype: Annotated[str, typer.Option(help="of the model: float32 or bfloat16")] = (
        "float32"
    ),
    device: Annotated[str, typer.Option(help="cpu, cuda or auto")] = "cpu",
    batch: Annotated[int, typer.Option(min=1, help="questions at once")] = 64,
    full: Annotated[
        bool, typer.Option("--full", help="ask all questions, whatever is certain")
    ] = False,
    run_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="gone on with if begun; default: runs/<id>"),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="end with one line of JSON")
    ] = False,
) -> ExitCode:
    """Put a candidate into the model and let it answer until the verdict is certain.

    Pass: as many of all questions as the rule needs, counted in a fixed order. The
    questions stop once no answer could change the verdict, or once the chance that the
    rest would is at most 1 in 1000. Each answer is kept as it comes: the same command
    on the same --run-dir goes on after a crash.

    --task gsm8k asks a gpt-oss-20b or -120b as TensorRT-LLM does (5-shot, chat
    template, greedy, 8192 output tokens) and needs the extra `eval`. --candidate plain
    is the suite's own, for faults that no other candidate can have.

    Exit codes: 0 pass; 1 fail; 2 usage or bad input; 3 invalid: another protocol,
    answers that were cut, or the candidate did not or cannot run; 4 inconclusive:
    stopped before the verdict was certain.
    """
    import json

    from mxmoe.conformance.rundir import new_run_id
    from mxmoe.evals.gate.shown import Shown
    from mxmoe.reference.errors import BadInput

    if task != "grade_school" and model is None:
        raise BadInput(f"--task {task}: expected --model, found none")
    if dtype not in ("float32", "bfloat16"):
        raise BadInput(f"--dtype: expected float32 or bfloat16, found {dtype!r}")
    try:
        from mxmoe.evals.gate.options import Options
        from mxmoe.evals.gate.run import run_gate
    except ModuleNotFoundError as error:
        raise BadInput(
            f"gate: expected the extra 'hf' (pip install 'mxmoe-conformance[hf]'), "
            f"found no {error.name}"
        ) from error
    folder = run_dir or Path("runs") / new_run_id()
    options = Options(
        candidate=candidate,
        fault=fault,
        task=task,
        data=data,
        threshold=threshold,
        dtype=dtype,
        device=device,
        batch=batch,
        full=full,
        **({} if model is None else {"model": model}),
    )
    with Shown(full=full) as shown:
        conclusion = run_gate(options, folder, heard=shown)
    verdict = str(conclusion.verdict)
    name = candidate if fault is None else f"{candidate} with fault {fault}"
    for reason in conclusion.reasons:
        typer.echo(reason)
    typer.echo(f"run {folder}")
    typer.echo(f"verdict: {verdict.upper()} {name} on {task}")
    if as_json:
        facts = {"verdict": verdict, "reasons": conclusion.reasons, "run": str(folder)}
        typer.echo(json.dumps(facts))
    return conclusion.verdict.exit_code
