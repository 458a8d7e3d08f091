"""Start the ranks with torchrun, watch them, end them all, say who failed.

No launch outlives its caller or its limits: a rank that stands still is killed with
all the others.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from mxmoe.conformance.ranks.blame import RankFailure
from mxmoe.conformance.ranks.blame import blame
from mxmoe.conformance.ranks.journal import READY
from mxmoe.conformance.ranks.journal import Entry
from mxmoe.conformance.ranks.journal import journal_path
from mxmoe.conformance.ranks.journal import read_journal
from mxmoe.conformance.ranks.plan import Plan
from mxmoe.conformance.ranks.plan import result_path
from mxmoe.conformance.ranks.plan import write_plan

# torchrun and each rank import torch, candidates their libraries: some 10 s on two
# busy cores, and a first start from a cold disk several times that.
START_SECONDS = 180.0
# What a rank may need beyond its call's own limit: to build a case, to say so.
GRACE_SECONDS = 5.0
# torchrun notices a dead rank within 0.1 s and ends the others at once.
_STOP_SECONDS = 5.0
_POLL_SECONDS = 0.05
_LOG = "torchrun.log"


@dataclass(frozen=True, kw_only=True)
class Launched:
    """What the ranks left: (partial, out) by case and rank, up to a failure."""

    results: tuple[tuple[tuple[torch.Tensor, torch.Tensor], ...], ...]
    failure: RankFailure | None


def launch(folder: Path, plan: Plan) -> Launched:
    """Run `plan` in `folder`; raises `RuntimeError` if the machinery itself failed."""
    write_plan(folder, plan)
    with (folder / _LOG).open("wb") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
                *("--local-addr", "127.0.0.1", "--nproc-per-node", str(plan.world)),
                *("-m", "mxmoe.conformance.ranks.worker", str(folder)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        try:
            stalled = _watch(process, folder, plan)
        finally:
            _stop(process, folder, plan.world)
    failure = None
    if stalled is not None or process.returncode != 0:
        said = (folder / _LOG).read_text(encoding="utf-8", errors="replace")
        failure = blame(_journals(folder, plan.world), said, stalled)
    return Launched(results=_results(folder, plan), failure=failure)


def _watch(process: subprocess.Popen[bytes], folder: Path, plan: Plan) -> float | None:
    """Wait for the end. Returns the seconds without progress that were too many."""
    seen, since = -1, time.monotonic()
    while process.poll() is None:
        time.sleep(_POLL_SECONDS)
        journals = _journals(folder, plan.world)
        entries = sum(map(len, journals))
        if entries != seen:
            seen, since = entries, time.monotonic()
        started = all(any(e.what == READY for e in j) for j in journals)
        limit = plan.call_seconds + GRACE_SECONDS if started else START_SECONDS
        if time.monotonic() - since > limit:
            return limit
    return None


def _stop(process: subprocess.Popen[bytes], folder: Path, world: int) -> None:
    """End torchrun and every rank; each rank leads a process group of its own."""
    if process.poll() is not None and process.returncode >= 0:
        return  # torchrun ends its ranks before itself, unless it is killed
    for journal in _journals(folder, world):
        if journal:
            _kill_group(int(journal[0].facts["pid"]), signal.SIGKILL)
    process.terminate()  # it ends ranks that had not begun their journal
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_SECONDS)
    _kill_group(process.pid, signal.SIGKILL)
    process.wait()


def _kill_group(leader: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


def _journals(folder: Path, world: int) -> list[tuple[Entry, ...]]:
    return [read_journal(journal_path(folder, rank)) for rank in range(world)]


def _results(
    folder: Path, plan: Plan
) -> tuple[tuple[tuple[torch.Tensor, torch.Tensor], ...], ...]:
    """Of the leading cases that every rank has finished."""
    results = []
    for case in range(len(plan.cases)):
        paths = [result_path(folder, case, rank) for rank in range(plan.world)]
        if not all(path.exists() for path in paths):
            break
        loaded = [load_file(path) for path in paths]
        results.append(tuple((one["partial"], one["out"]) for one in loaded))
    return tuple(results)
