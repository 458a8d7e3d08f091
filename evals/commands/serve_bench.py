"""``mxmoe serve-bench``: latency of a server, on answers that are valid."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from typing import Annotated
from typing import Any

import typer

from mxmoe.conformance.commands.options import AsLine
from mxmoe.conformance.commands.options import RunDir
from mxmoe.conformance.verdict import ExitCode
from mxmoe.reference.errors import BadInput

if TYPE_CHECKING:
    from mxmoe.evals.endpoint.serve_bench import Measured
    from mxmoe.evals.endpoint.serve_bench import Wanted


def serve_bench(
    url: Annotated[str, typer.Argument(metavar="URL", help="http://host:port/v1")],
    model: Annotated[str, typer.Option(metavar="NAME", help="as the server names it")],
    api: Annotated[str, typer.Option(help="chat or completions")] = "chat",
    isl: Annotated[int, typer.Option(help="tokens of a prompt")] = 1000,
    osl: Annotated[int, typer.Option(help="tokens of an answer")] = 1000,
    concurrency: Annotated[int, typer.Option(help="requests at once")] = 1,
    requests: Annotated[int, typer.Option(help="that are timed")] = 20,
    warmup: Annotated[int, typer.Option(help="requests before, not timed")] = 1,
    gate: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="of mxmoe gate here: must have passed"),
    ] = None,
    extra: Annotated[
        str,
        typer.Option(metavar="JSON", help="fields to add to each request"),
    ] = "{}",
    api_key_env: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="variable with the key; default: no key"),
    ] = None,
    request_seconds: Annotated[
        float, typer.Option(help="limit of one request, seconds")
    ] = 600.0,
    run_dir: RunDir = None,
    as_json: AsLine = False,
) -> ExitCode:
    """Time streamed answers of an OpenAI-compatible server, if their content is valid.

    All lengths are the server's own token counts: the prompt is fitted until the server
    counts --isl tokens, and each answer must have --osl. Servers are asked to ignore
    the end token (ignore_eos, min_tokens); one that refuses these fields must reach the
    length by itself. ITL of a request: from its first to its last text, divided by the
    tokens after the first; tokens/s/user is 1 / ITL; percentiles are over requests.

    No figure is given when a request fails, when a length is not reached, when answers
    repeat one word, when they are not streamed, or when the run of --gate did not pass.

    Exit codes: 0 measured; 2 bad input, also when no prompt has the length; 3 refused.
    """
    import json

    from mxmoe.conformance.escape import printable
    from mxmoe.conformance.rundir import describe_machine
    from mxmoe.conformance.rundir import new_run_id
    from mxmoe.conformance.rundir import open_run

    try:
        from mxmoe.evals.endpoint.address import Api
        from mxmoe.evals.endpoint.address import read_address
        from mxmoe.evals.endpoint.api_key import key_from_environment
        from mxmoe.evals.endpoint.gate_of_bench import gate_objection
        from mxmoe.evals.endpoint.latency import CSV_HEADER
        from mxmoe.evals.endpoint.latency import csv_rows
        from mxmoe.evals.endpoint.limits import Limits
        from mxmoe.evals.endpoint.serve_bench import Measured
        from mxmoe.evals.endpoint.serve_bench import Wanted
        from mxmoe.evals.endpoint.serve_bench import measure
    except ModuleNotFoundError as error:
        raise BadInput(
            "serve-bench: expected the extra 'endpoint' "
            f"(pip install 'mxmoe-conformance[endpoint]'), found no {error.name}"
        ) from error
    if api.upper() not in Api.__members__:
        raise BadInput(f"--api: expected chat or completions, found {api!r}")
    wanted = Wanted(
        api=Api[api.upper()],
        model=model,
        isl=isl,
        osl=osl,
        concurrency=concurrency,
        requests=requests,
        warmup=warmup,
        extra=_extra(extra),
    )
    address, limits = read_address(url), Limits(request=request_seconds)
    key = key_from_environment(api_key_env)
    objection = None if gate is None else gate_objection(gate, address, model)
    writer = open_run(run_dir or Path("runs") / new_run_id())
    found = Measured(refused=(objection,)) if objection else Measured()
    if objection is None:
        found = measure(address, key, limits, wanted)
    facts = _facts(address.base, wanted, found, gate)
    writer.describe(command="serve-bench", **facts, **describe_machine())
    if found.latency is not None:
        writer.bench(CSV_HEADER, csv_rows(found.answers))
    for line in _lines(address.base, wanted, found, gate):
        print(printable(line))
    print(f"run {writer.folder}")
    if as_json:
        print(json.dumps(facts))
    return ExitCode.INVALID if found.refused else ExitCode.PASS


def _extra(text: str) -> dict[str, Any]:
    import json

    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"--extra: expected a JSON object, found {error}") from error
    if not isinstance(found, dict):
        raise BadInput(f"--extra: expected a JSON object, found {text!r:.80}")
    return found


def _facts(
    base: str, wanted: Wanted, found: Measured, gate: Path | None
) -> dict[str, Any]:
    """What ``--json`` and ``run.json`` say."""
    from dataclasses import asdict

    facts: dict[str, Any] = {
        "endpoint": base,
        **asdict(wanted),
        "api": wanted.api.name.lower(),
        "forced_length": found.forced,
        "gate": gate and str(gate),
        "refused": list(found.refused),
    }
    if found.latency is not None:
        facts["latency"] = asdict(found.latency)
    return facts


def _lines(base: str, wanted: Wanted, found: Measured, gate: Path | None) -> list[str]:
    from mxmoe.evals.endpoint.latency import table_lines

    lines = [
        f"{wanted.model} at {base}: {wanted.requests} requests, {wanted.concurrency} "
        f"at once, {wanted.isl} tokens in, {wanted.osl} out"
    ]
    if not found.forced:
        lines.append(
            "the server refuses ignore_eos and min_tokens: lengths are the model's own"
        )
    if found.refused:
        return [*lines, *(f"refused: {reason}" for reason in found.refused)]
    if found.latency is not None:
        lines += table_lines(found.latency)
    checked = "lengths and repetition were checked"
    passed = f"the gate passed: {gate}" if gate else "no gate was run"
    return [*lines, f"valid: {checked}; {passed}"]
