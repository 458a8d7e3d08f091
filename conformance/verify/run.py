"""A whole checkpoint: every layer and rank, resumable, by one process or many.

A run directory is the only thing that processes share. Each takes every n-th layer
and appends what it finds to a file of its own; the leading process waits until all
layers are there, and concludes.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from mxmoe.conformance.processes import Process
from mxmoe.conformance.processes import termination_raises
from mxmoe.conformance.processes import this_process
from mxmoe.conformance.rundir import RunWriter
from mxmoe.conformance.rundir import describe_machine
from mxmoe.conformance.rundir import new_run_id
from mxmoe.conformance.rundir import open_run
from mxmoe.conformance.suite.run_facts import candidate_facts
from mxmoe.conformance.suite.run_facts import now
from mxmoe.conformance.time_limit import CALL_SECONDS
from mxmoe.conformance.verdict import ExitCode
from mxmoe.conformance.verdict import Failure
from mxmoe.conformance.verdict import NotJudged
from mxmoe.conformance.verify.layer import LayerVerifier
from mxmoe.conformance.verify.layer_lines import LayerLine
from mxmoe.conformance.verify.layer_lines import append_layer
from mxmoe.conformance.verify.layer_lines import cut_torn_line
from mxmoe.conformance.verify.layer_lines import read_layers
from mxmoe.conformance.verify.report import Display
from mxmoe.conformance.verify.report import Outcome
from mxmoe.conformance.verify.report import conclude
from mxmoe.conformance.verify.report import verdict_lines
from mxmoe.conformance.verify.request import VerifyOptions
from mxmoe.conformance.verify.request import VerifyRequest
from mxmoe.conformance.verify.request import read_request
from mxmoe.conformance.verify.tensor_digests import write_digests
from mxmoe.reference.errors import BadInput

# How often the files of the other processes are looked at. A layer takes longer.
_POLL_SECONDS = 0.2

# Without --wait, another process may take this many times as long for its next layer
# as the slowest layer so far took: a host may be slower, not that much.
_PATIENCE = 10.0


def run_verify(
    options: VerifyOptions,
    *,
    run_folder: Path | None = None,
    wait: float | None = None,
    as_json: bool = False,
) -> ExitCode:
    """Verify, print, write the run directory; `BadInput` before anything has run."""
    out = sys.stdout
    # What candidates print is not part of our document.
    with contextlib.redirect_stdout(sys.stderr), termination_raises():
        process = this_process()
        if run_folder is None and process.count > 1:
            raise BadInput(
                f"--run-dir: expected one folder for all {process.count} processes, "
                "found none"
            )
        request = read_request(options)
        folder = run_folder or Path("runs") / new_run_id()
        display = Display(sys.stderr if as_json else out, request, process)
        refusal = _refusal(request)
        if refusal is not None:
            outcome = Outcome(ExitCode.INVALID, f"verdict: INVALID {refusal}", {})
        elif process.leads:
            outcome = _lead(request, process, folder, wait, display)
        else:
            return _follow(request, process, folder, wait)
    if not process.leads:
        return ExitCode.PASS
    if as_json:
        out.write(json.dumps(outcome.as_json(request, folder)) + "\n")
    else:
        display.end(outcome, folder)
    return outcome.exit_code


def _refusal(request: VerifyRequest) -> str | None:
    """Why the candidate cannot be verified here on all ranks, or None."""
    name = request.subject.name
    try:
        reason = request.subject.unavailable()
        for shard in request.shards:
            request.subject.require(request.checkpoint.config, shard)
    except NotJudged as error:
        reason = error.reason
    except Failure as error:
        reason = error.text.partition("\n")[0]
    return None if reason is None else f"{name} did not run: {reason}"


def _lead(
    request: VerifyRequest,
    process: Process,
    folder: Path,
    wait: float | None,
    display: Display,
) -> Outcome:
    """Do this process's share, wait for the others, conclude."""
    writer = _begin(request, folder)
    display.begin(read_layers(folder))
    reason = ""
    try:
        for _ in _work(request, process, folder, display):
            display.update(read_layers(folder))
        if not _await_others(request, folder, wait, display):
            reason = "no process finished one in time"
    except KeyboardInterrupt as error:
        reason = f"stopped by {type(error).__name__}"
    except BadInput:
        raise
    except Exception as error:
        # A full disk, for one: it says nothing about the candidate.
        traceback.print_exc()
        reason = f"mxmoe failed with {type(error).__name__}: {error}"
    finally:
        display.stop()
    lines = read_layers(folder)
    outcome = conclude(request, lines, reason)
    if outcome.exit_code == ExitCode.PASS and request.options.write_digests:
        digests = {
            layer: {rank.shard: rank.digests for rank in lines[layer].ranks}
            for layer in request.layers
        }
        write_digests(request.options.write_digests, request.digest_facts, digests)
    (folder / "verdicts.jsonl").unlink(missing_ok=True)
    for line in verdict_lines(request, lines):
        writer.verdict(line)
    writer.describe(
        finished=now(), exit_code=int(outcome.exit_code), verdict=outcome.line
    )
    return outcome


def _follow(
    request: VerifyRequest, process: Process, folder: Path, wait: float | None
) -> ExitCode:
    """Do this process's share of a run that the leading one has begun.

    Ends well whatever it found: torchrun stops everybody when one process fails.
    """
    deadline = time.monotonic() + (wait or CALL_SECONDS)
    while not (folder / "run.json").exists():
        if time.monotonic() > deadline:
            return ExitCode.INVALID
        time.sleep(_POLL_SECONDS)
    _continue(request, folder)
    for _ in _work(request, process, folder, None):
        pass
    return ExitCode.PASS


def _work(
    request: VerifyRequest, process: Process, folder: Path, display: Display | None
) -> Iterator[LayerLine]:
    """Verify those layers of this process's share that no line tells of yet."""
    cut_torn_line(folder, process.rank)
    finished = read_layers(folder)
    verifier = LayerVerifier(request=request)
    for layer in process.share(request.layers):
        if layer not in finished:
            started = None if display is None else display.rank_started(layer)
            line = verifier.verify(layer, started)
            append_layer(folder, process.rank, line)
            yield line


def _await_others(
    request: VerifyRequest, folder: Path, wait: float | None, display: Display
) -> bool:
    """Show what the other processes finish; False if nothing comes for too long."""
    lines, last = read_layers(folder), time.monotonic()
    while any(layer not in lines for layer in request.layers):
        slowest = max((line.seconds for line in lines.values()), default=0.0)
        limit = wait or max(CALL_SECONDS, _PATIENCE * slowest)
        if time.monotonic() - last > limit:
            return False
        time.sleep(_POLL_SECONDS)
        before, lines = len(lines), read_layers(folder)
        if len(lines) > before:
            last = time.monotonic()
            display.update(lines)
    return True


def _begin(request: VerifyRequest, folder: Path) -> RunWriter:
    """A new run directory, or one that was begun with the same request."""
    if (folder / "run.json").exists():
        writer = _continue(request, folder)
        writer.describe(continued=now())
        return writer
    writer = open_run(folder)
    checkpoint = request.checkpoint
    writer.describe(
        command="verify",
        started=now(),
        **describe_machine(),
        candidates=[candidate_facts(request.subject)],
        checkpoint={
            "folder": str(checkpoint.folder),
            "shape": checkpoint.config.label(),
            "layers": list(request.layers),
        },
        verify=request.identity,
    )
    return writer


def _continue(request: VerifyRequest, folder: Path) -> RunWriter:
    """The run in `folder`; `BadInput` unless it was begun with the same request."""
    writer = RunWriter.reopen(folder)
    begun = writer.facts.get("verify")
    if not isinstance(begun, dict):
        raise BadInput(f"{folder}: expected a run of mxmoe verify, found another")
    for name, expected in request.identity.items():
        if begun.get(name) != expected:
            raise BadInput(
                f"{folder}: {name}: expected {expected!r} as asked for now, "
                f"found a run begun with {begun.get(name)!r:.80}"
            )
    return writer
