"""The run directory of a gate, new or begun before."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mxmoe.conformance.registry import source_file
from mxmoe.conformance.rundir import RunWriter
from mxmoe.conformance.rundir import describe_machine
from mxmoe.conformance.rundir import open_run
from mxmoe.conformance.suite.run_facts import now
from mxmoe.evals.gate.options import Options
from mxmoe.reference.errors import BadInput

_FACTS, _PARTIAL = "run.json", "run.json.partial"


def begin(folder: Path, options: Mapping[str, Any]) -> RunWriter:
    """The writer of a new run, or of one with the same options.

    `BadInput` for a folder of another run, and for one that holds something else.
    """
    if not (folder / _FACTS).exists():
        _clear_first_write(folder)
        writer = open_run(folder)
        writer.describe(
            command="gate", started=now(), options=dict(options), **describe_machine()
        )
        return writer
    writer = RunWriter.reopen(folder)
    before = writer.facts.get("options")
    if before != options:
        raise BadInput(
            f"{folder}: expected an empty folder or a run of these options, "
            f"found one of {before}"
        )
    return writer


def facts_of(options: Options) -> Mapping[str, Any]:
    """The options as run.json holds them, and the hash of the candidate's file."""
    source = source_file(options.candidate)
    return asdict(options) | {
        "model": str(options.model),
        "data": None if options.data is None else str(options.data),
        "candidate_file": source and hashlib.sha256(source.read_bytes()).hexdigest(),
    }


def _clear_first_write(folder: Path) -> None:
    """Remove what a run leaves behind that was killed in its very first write."""
    if folder.is_dir() and [path.name for path in folder.iterdir()] == [_PARTIAL]:
        (folder / _PARTIAL).unlink()
