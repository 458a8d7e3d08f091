"""Run directories of the gate below a folder -> one row each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mxmoe.conformance.rundir import read_run
from mxmoe.evals.gate.gate_run import GateRun
from mxmoe.evals.gate.gate_run import read_gate_run
from mxmoe.reference.errors import BadInput

# runs/<id>, and what the nights leave: runs/nights/<id>/<candidate>/gate.
_DEEPEST = 4


@dataclass(frozen=True, kw_only=True)
class Row:
    """One ended run. folder : below the scanned one. correct : a score if all `asked`
    questions were `answered`.
    """

    folder: str
    started: str
    task: str
    protocol_sha256: str
    candidate: str
    fault: str
    dtype: str
    device: str
    verdict: str
    asked: int
    answered: int
    correct: int

    @property
    def configuration(self) -> tuple[str, ...]:
        """Runs that differ in nothing here make one trend."""
        return (
            self.task,
            self.candidate,
            self.fault,
            self.dtype,
            self.device,
            self.protocol_sha256,
        )


@dataclass(frozen=True, kw_only=True)
class Scanned:
    """rows : by start. damaged : (folder, why) of what looked like a run of the gate
    but cannot be read. others : runs of other commands, and gates without an end.
    """

    rows: tuple[Row, ...]
    damaged: tuple[tuple[str, str], ...]
    others: int


def scan(runs: Path) -> Scanned:
    """Read every run below `runs`; `BadInput` where there is no such folder.

    A damaged run is named and passed over. Nothing is changed.
    """
    if not runs.is_dir():
        raise BadInput(f"{runs}: expected a folder of run directories, found none")
    rows, damaged, others = [], [], 0
    for folder in _run_folders(runs):
        name = folder.relative_to(runs).as_posix()
        try:
            facts = read_run(folder).run
            if facts.get("command") != "gate" or "verdict" not in facts:
                others += 1
                continue
            rows.append(_row(name, read_gate_run(folder)))
        except BadInput as error:
            damaged.append((name, str(error)))
        # A fact of another kind than this version writes.
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            damaged.append((name, f"run.json: expected a run, found {error!r}"))
    rows.sort(key=lambda row: (row.started, row.folder))
    return Scanned(rows=tuple(rows), damaged=tuple(damaged), others=others)


def _run_folders(runs: Path) -> Iterator[Path]:
    for here, folders, files in os.walk(runs):
        depth = len(Path(here).relative_to(runs).parts)
        if "run.json" in files and depth:
            yield Path(here)
        if depth >= _DEEPEST:
            folders.clear()
        folders.sort()


def _row(name: str, run: GateRun) -> Row:
    options: dict[str, Any] = run.facts["options"]
    return Row(
        folder=name,
        started=_text(run.facts["started"]),
        task=run.protocol.task,
        protocol_sha256=run.protocol.sha256(),
        candidate=_text(options["candidate"]),
        fault=_text(options["fault"] or ""),
        dtype=_text(options["dtype"]),
        device=_text(run.facts["device"]),
        verdict=str(run.conclusion.verdict),
        asked=run.protocol.questions,
        answered=len(run.answers),
        correct=run.correct,
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} in the place of a text")
    return value
