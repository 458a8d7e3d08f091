"""``mxmoe gate``: the task score with a candidate inside, decided soundly and early."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from typing import Annotated
from typing import Any

import typer

from mxmoe.conformance.commands.options import AsLine
from mxmoe.conformance.commands.options import ResumedRunDir
from mxmoe.conformance.verdict import ExitCode
from mxmoe.evals.commands.model_options import Batch
from mxmoe.evals.commands.model_options import Data
from mxmoe.evals.commands.model_options import Device
from mxmoe.evals.commands.model_options import Dtype
from mxmoe.evals.commands.model_options import Fault
from mxmoe.evals.commands.model_options import TaskName
from mxmoe.reference.errors import BadInput

if TYPE_CHECKING:
    from mxmoe.evals.gate.verdict import Conclusion


def gate(
    candidate: Annotated[
        str | None,
        typer.Option(
            "--candidate",
            "-c",
            metavar="SPEC",
            help="path/file.py:attr, package.module:attr, an installed name, or plain",
        ),
    ] = None,
    task: TaskName = "grade_school",
    data: Data = None,
    fault: Fault = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|NAME",
            help="a gpt-oss folder (grade_school: the one that ships), or the name "
            "at the endpoint",
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            metavar="PERCENT", help="pass from this score on, whatever the reference"
        ),
    ] = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    batch: Batch = 64,
    endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="ask this OpenAI-compatible server, not a candidate"
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="entry to compare an endpoint with, e.g. "
            "gsm8k-gpt-oss-120b; default: the task's only one",
        ),
    ] = None,
    api: Annotated[
        str | None,
        typer.Option(help="of the endpoint: chat or completions; default: the task's"),
    ] = None,
    api_key_env: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="variable with the endpoint's key; default: no key"
        ),
    ] = None,
    concurrency: Annotated[
        int, typer.Option(min=1, max=1024, help="questions at once at an endpoint")
    ] = 16,
    request_seconds: Annotated[
        float, typer.Option(help="limit of one request at an endpoint, seconds")
    ] = 600.0,
    run_seconds: Annotated[
        float, typer.Option(help="limit of all questions at an endpoint, seconds")
    ] = 86400.0,
    full: Annotated[
        bool, typer.Option("--full", help="ask all questions, whatever is certain")
    ] = False,
    run_dir: ResumedRunDir = None,
    as_json: AsLine = False,
) -> ExitCode:
    """Put a candidate into the model and let it answer until the verdict is certain.

    Pass: as many of all questions as the rule needs, counted in a fixed order. The
    questions stop once no answer could change the verdict, or once the chance that the
    rest would is at most 1 in 1000. Each answer is kept as it comes: the same command
    on the same --run-dir goes on after a crash.

    --task gsm8k asks a gpt-oss-20b or -120b as TensorRT-LLM does (5-shot, chat
    template, greedy, 8192 output tokens) and needs the extra `eval`. --candidate plain
    is the suite's own, for faults that no other candidate can have.

    With --endpoint URL and --model NAME a server is asked instead (extra `endpoint`).
    Nothing shows there which kernel ran; the verdict says what it does not cover.

    Exit codes: 0 pass; 1 fail; 2 usage or bad input; 3 invalid: another protocol,
    answers that were cut or are missing, or the candidate did not or cannot run; 4
    inconclusive: stopped before the verdict was certain.
    """
    import json

    from mxmoe.conformance.escape import printable
    from mxmoe.conformance.rundir import new_run_id

    if (candidate is None) is (endpoint is None):
        raise BadInput("gate: expected either --candidate or --endpoint")
    folder = run_dir or Path("runs") / new_run_id()
    shared = {"task": task, "data": data, "threshold": threshold, "full": full}
    not_verified: list[str] = []
    if endpoint is None:
        conclusion = _inside(
            folder,
            **shared,
            candidate=candidate,
            fault=fault,
            model=model,
            dtype=dtype,
            device=device,
            batch=batch,
        )
        name = str(candidate) if fault is None else f"{candidate} with fault {fault}"
    else:
        if fault is not None:
            raise BadInput("--fault: expected --candidate, found --endpoint")
        conclusion, not_verified = _at_endpoint(
            folder,
            **shared,
            endpoint=endpoint,
            reference=reference,
            model=model or "",
            api=_api(api),
            api_key_env=api_key_env,
            concurrency=concurrency,
            request_seconds=request_seconds,
            run_seconds=run_seconds,
        )
        name = f"{model} at {endpoint}"
    verdict = str(conclusion.verdict)
    for reason in conclusion.reasons:
        typer.echo(printable(reason))
    typer.echo(printable(f"run {folder}"))
    unverified = f"; not verified: {', '.join(not_verified)}" if not_verified else ""
    typer.echo(printable(f"verdict: {verdict.upper()} {name} on {task}{unverified}"))
    if as_json:
        facts = {"verdict": verdict, "reasons": conclusion.reasons, "run": str(folder)}
        more = {"not_verified": not_verified} if not_verified else {}
        typer.echo(json.dumps(facts | more))
    return conclusion.verdict.exit_code


def _inside(folder: Path, *, model: str | None, **asked: Any) -> Conclusion:
    """A candidate inside the model, here."""
    from mxmoe.evals.gate.shown import Shown

    if asked["task"] != "grade_school" and model is None:
        raise BadInput(f"--task {asked['task']}: expected --model, found none")
    if asked["dtype"] not in ("float32", "bfloat16"):
        raise BadInput(
            f"--dtype: expected float32 or bfloat16, found {asked['dtype']!r}"
        )
    try:
        from mxmoe.evals.gate.options import Options
        from mxmoe.evals.gate.run import run_gate
    except ModuleNotFoundError as error:
        raise _missing("hf", error) from error
    folder_of_model = {} if model is None else {"model": Path(model)}
    options = Options(**(asked | folder_of_model))
    with Shown(full=asked["full"]) as shown:
        return run_gate(options, folder, heard=shown)


def _at_endpoint(
    folder: Path, *, request_seconds: float, **asked: Any
) -> tuple[Conclusion, list[str]]:
    """A server, and what its verdict does not cover."""
    from mxmoe.evals.gate.shown import Shown

    try:
        from mxmoe.evals.endpoint.gate_run import Options
        from mxmoe.evals.endpoint.gate_run import run_endpoint_gate
        from mxmoe.evals.endpoint.gate_run import unverified
        from mxmoe.evals.endpoint.limits import Limits
        from mxmoe.evals.endpoint.task import load_endpoint_task
    except ModuleNotFoundError as error:
        raise _missing("endpoint", error) from error
    options = Options(**asked, limits=Limits(request=request_seconds))
    with Shown(full=options.full) as shown:
        found = run_endpoint_gate(options, folder, heard=shown)
    return found, unverified(load_endpoint_task(options.task, options.data))


def _api(name: str | None) -> Any:
    from mxmoe.evals.endpoint.address import Api

    if name is not None and name.upper() not in Api.__members__:
        raise BadInput(f"--api: expected chat or completions, found {name!r}")
    return None if name is None else Api[name.upper()]


def _missing(extra: str, error: ModuleNotFoundError) -> BadInput:
    return BadInput(
        f"gate: expected the extra {extra!r} "
        f"(pip install 'mxmoe-conformance[{extra}]'), found no {error.name}"
    )
