"""``mxmoe peers``: which planted faults other projects' acceptance rules let pass."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from mxmoe.conformance.commands.options import AsLine
from mxmoe.conformance.commands.options import RunDir
from mxmoe.conformance.verdict import ExitCode


def peers(
    seeds: Annotated[
        int, typer.Option(min=1, max=100, help="draws of each data recipe")
    ] = 1,
    fault: Annotated[
        list[str] | None,
        typer.Option("--fault", metavar="NAME", help="repeatable; default: all"),
    ] = None,
    peer: Annotated[
        list[str] | None,
        typer.Option("--peer", metavar="NAME", help="repeatable; default: all"),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, max=256, help="worker processes; default: one a core"),
    ] = None,
    run_dir: RunDir = None,
    as_json: AsLine = False,
) -> ExitCode:
    """Run other projects' acceptance rules and this suite on the same planted faults.

    Each rule (FlashInfer, FlashInfer-Bench, vLLM, triton_kernels, TensorRT-LLM, SGLang;
    see docs/peers.md) judges every planted fault that changes the output of one call,
    on data drawn as that project draws them and on the suite's designed data. caught:
    rejected, where the rule accepts the candidate without the fault; unseen: with these
    data the fault changes nothing. Then the correct variants: a rejection is a false
    alarm. The last column is the check of this suite that the fault names.

    The run directory gets run.json, peers.csv (one line a finding), faults.md,
    totals.md and table.txt.

    Exit codes: 0 pass; 1 fail: this suite missed a fault or rejected a correct variant;
    2 usage or bad input.
    """
    import json

    from mxmoe.conformance.rundir import describe_machine
    from mxmoe.conformance.rundir import new_run_id
    from mxmoe.conformance.rundir import open_run
    from mxmoe.evals.peer_rules.compare import compare
    from mxmoe.evals.peer_rules.findings import SUITE
    from mxmoe.evals.peer_rules.run_files import facts_of
    from mxmoe.evals.peer_rules.run_files import write_files

    writer = open_run(run_dir or Path("runs") / new_run_id())
    result = compare(
        seeds=seeds, faults=fault or (), peers=peer or (), jobs=jobs, say=_say
    )
    facts = {"command": "peers", "seeds": seeds, **facts_of(result)}
    writer.describe(**(describe_machine() | facts))
    for line in write_files(writer, result):
        print(line)
    print(f"run {writer.folder}")
    if as_json:
        print(json.dumps(facts))
    missed = result.caught(SUITE, "suite") < len(result.effects)
    return ExitCode.FAIL if missed or result.alarms(SUITE, "suite") else ExitCode.PASS


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
