"""One rank: ``torchrun ... -m mxmoe.conformance.ranks.worker FOLDER``.

Rebuilds each case from its word, computes its own part, reduces over the group, and
leaves the result for the process that judges. Judges nothing itself.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.case import parse_case
from mxmoe.conformance.cases.designed import CaseData
from mxmoe.conformance.cases.designed import make_case_data
from mxmoe.conformance.cases.designed import on_device
from mxmoe.conformance.cases.rank_groups import ranks_of
from mxmoe.conformance.ranks.journal import BROKEN
from mxmoe.conformance.ranks.journal import DONE
from mxmoe.conformance.ranks.journal import FAILED
from mxmoe.conformance.ranks.journal import READY
from mxmoe.conformance.ranks.journal import Journal
from mxmoe.conformance.ranks.journal import journal_path
from mxmoe.conformance.ranks.layer_step import LayerStep
from mxmoe.conformance.ranks.plan import Plan
from mxmoe.conformance.ranks.plan import read_plan
from mxmoe.conformance.ranks.plan import result_path
from mxmoe.conformance.registry import load_candidate
from mxmoe.conformance.subject import Subject
from mxmoe.conformance.verdict import Failure
from mxmoe.conformance.verdict import Verdict
from mxmoe.reference.checkpoint import open_checkpoint
from mxmoe.reference.errors import BadInput

# How soon a rank notices that nobody waits for it any more.
_PARENT_SECONDS = 1.0


def main(folder: Path) -> None:
    """Compute every case of the plan."""
    plan, rank = read_plan(folder), int(os.environ["RANK"])
    journal = Journal(journal_path(folder, rank))
    journal.begins("start", pid=os.getpid(), torchrun=os.getppid())
    threading.Thread(target=_end_with, args=(plan.parent,), daemon=True).start()
    try:
        _work(folder, plan, rank, journal)
    except Failure as error:
        journal.begins(FAILED, verdict=str(error.verdict), text=error.text)
        _leave(1)
    except Exception:
        journal.begins(BROKEN, text=traceback.format_exc())
        _leave(1)
    journal.begins(DONE)
    # Destructors of a group whose other members have gone can wait for them.
    _leave(0)


def _work(folder: Path, plan: Plan, rank: int, journal: Journal) -> None:
    gpu = None
    if plan.device == "cuda":
        gpu = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(gpu)
    journal.begins("load")
    try:
        subject = load_candidate(plan.spec, device=plan.device)
    except BadInput as error:
        # It was loaded before, in the process that asked: this is a rank's own failure.
        raise Failure(Verdict.CRASH, str(error)) from error
    subject = replace(subject, call_seconds=plan.call_seconds)
    steps = [_layer_step(spec) for spec in plan.layer_steps]
    journal.begins("init_process_group")
    dist.init_process_group("gloo" if gpu is None else "nccl", device_id=gpu)
    journal.begins(READY)
    for number, (word, step) in enumerate(zip(plan.cases, steps, strict=True)):
        journal.case = number
        case = parse_case(word)
        aligned = subject.capabilities.align(case.shard)
        case = replace(case, shard=ranks_of(aligned)[rank])
        partial, out = _compute(subject, case, plan, step, journal)
        # Renamed when it is whole: a rank can be killed at any time.
        path = result_path(folder, number, rank)
        tensors = {"partial": partial.cpu(), "out": out.cpu().contiguous()}
        save_file(tensors, path.with_suffix(".part"))
        path.with_suffix(".part").rename(path)
    journal.begins("barrier")
    dist.barrier()


def _compute(
    subject: Subject, case: Case, plan: Plan, step: LayerStep, journal: Journal
) -> tuple[torch.Tensor, torch.Tensor]:
    """(this rank's partial sum, the output of the layer step), [t, h] each."""
    data = _data(subject, case, plan)
    x = on_device(case, data, subject.device)
    journal.begins("prepare")
    prepared = subject.prepare(data.weights, data.config, case.shard)
    journal.begins("forward")
    partial = subject.forward(prepared, x.hidden_states, x.routing)
    # A collective works in place and on dense memory; the output may be neither ours
    # to write to nor dense.
    partial = partial.detach().clone(memory_format=torch.contiguous_format)

    def all_reduce(tensor: torch.Tensor) -> torch.Tensor:
        journal.begins("all_reduce")
        whole = tensor.clone()
        dist.all_reduce(whole)
        return whole

    out = step(x.hidden_states, partial, all_reduce)
    if subject.device.type == "cuda":
        torch.cuda.synchronize()
    return partial, out


def _data(subject: Subject, case: Case, plan: Plan) -> CaseData:
    layer_weights = None
    if case.layer is not None:
        checkpoint = open_checkpoint(Path(plan.checkpoint))
        layer_weights = checkpoint.config, checkpoint.layer(case.layer)
    return make_case_data(
        case, hidden_dtype=subject.arithmetic.output, layer_weights=layer_weights
    )


def _layer_step(spec: str) -> LayerStep:
    module, _, name = spec.partition(":")
    step: LayerStep = getattr(importlib.import_module(module), name)
    return step


def _end_with(parent: int) -> None:
    """End this process when `parent` has gone, even if it was killed."""
    while True:
        time.sleep(_PARENT_SECONDS)
        try:
            os.kill(parent, 0)
        except ProcessLookupError:
            _leave(1)


def _leave(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
