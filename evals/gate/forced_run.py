"""Run the candidate and other experts over the same right answers."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from mxmoe.conformance.registry import load_candidate
from mxmoe.conformance.rundir import describe_machine
from mxmoe.conformance.rundir import open_run
from mxmoe.conformance.subject import Subject
from mxmoe.conformance.suite import whole_lines
from mxmoe.conformance.suite.run_facts import now
from mxmoe.conformance.verdict import Failure
from mxmoe.evals.gate.begun import facts_of
from mxmoe.evals.gate.forced import LIMITS
from mxmoe.evals.gate.forced import ForcedScore
from mxmoe.evals.gate.forced import conclude_forced
from mxmoe.evals.gate.forced import line_of
from mxmoe.evals.gate.forced import score_of
from mxmoe.evals.gate.options import Options
from mxmoe.evals.gate.options import cannot_run
from mxmoe.evals.gate.options import load_subject
from mxmoe.evals.gate.order import registered_order
from mxmoe.evals.gate.prompts import prompts_of
from mxmoe.evals.gate.task import ORDER_SEED
from mxmoe.evals.gate.task import Task
from mxmoe.evals.gate.tasks import load_task
from mxmoe.evals.gate.verdict import Conclusion
from mxmoe.evals.gate.verdict import GateVerdict
from mxmoe.evals.inside.experts import put_inside
from mxmoe.evals.inside.load import DTYPES
from mxmoe.evals.inside.load import load
from mxmoe.evals.inside.proof import proof
from mxmoe.evals.inside.teacher_forced import Forced
from mxmoe.evals.inside.teacher_forced import force
from mxmoe.evals.model_identity import weights_sha256
from mxmoe.reference.checkpoint import open_checkpoint

FILE = "forced.jsonl"
OWN = "transformers"  # its own experts


def run_forced(
    options: Options,
    folder: Path,
    *,
    questions: int,
    against: str = OWN,
    limit: float | None = None,
) -> tuple[Conclusion, ForcedScore | None]:
    """Judge a candidate by the first questions of the registered order.

    limit : of the shift, in nats; None takes `LIMITS`. Raises `BadInput` for options
    that cannot be carried out and for a folder with content.
    """
    task = load_task(options.task, options.data)
    subject = load_subject(options)
    checkpoint = open_checkpoint(options.model)
    order = registered_order(len(task.golds), seed=ORDER_SEED)[:questions]
    allowed = LIMITS[options.dtype] if limit is None else limit
    writer = open_run(folder)
    writer.describe(
        command="teacher-forced",
        started=now(),
        options=dict(facts_of(options)),
        against=against,
        limit=allowed,
        questions_sha256=task.questions_sha256,
        model_sha256=weights_sha256(options.model),
        **describe_machine(),
    )
    reason = cannot_run(subject, checkpoint.config)
    if reason is not None:
        found = Conclusion(GateVerdict.INVALID, (reason,))
        writer.describe(verdict=str(found.verdict), reasons=list(found.reasons))
        return found, None
    other = None if against == OWN else load_candidate(against, device=None)
    score = None
    try:
        theirs, _ = _forced(options, task, order, other)
        mine, objection = _forced(options, task, order, subject)
        lines = [
            line_of(question, a, b)
            for question, a, b in zip(order, mine, theirs, strict=True)
        ]
        for line in lines:
            whole_lines.append_line(folder / FILE, asdict(line))
        score = score_of(lines)
        found = conclude_forced(score, limit=allowed, did_not_run=objection)
    except Failure as failure:
        found = Conclusion(GateVerdict.FAIL, (failure.text,))
    writer.describe(
        verdict=str(found.verdict),
        reasons=list(found.reasons),
        score=None if score is None else asdict(score),
    )
    return found, score


def _forced(
    options: Options, task: Task, order: Sequence[int], subject: Subject | None
) -> tuple[list[Forced], str | None]:
    """By place in `order`, and why the candidate did not run in all of it, or None."""
    loaded = load(
        options.model,
        dtype=DTYPES[options.dtype],
        device=options.device,
        experts=subject is None,
    )
    inside = None if subject is None else put_inside(loaded, subject)
    prompts = prompts_of(task, loaded.tokenizer)
    pairs = [(prompts[question], task.golds[question]) for question in order]
    found = sorted(force(loaded, pairs, batch=options.batch), key=lambda f: f.index)
    objection = None
    if inside is not None:
        objection = proof(inside.passes, inside.experts).objection()
    del loaded, inside  # before the next model is read
    gc.collect()
    return found, objection
