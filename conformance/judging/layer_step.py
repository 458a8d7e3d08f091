"""Real processes: each rank's part, a real all-reduce, the residual, then the verdict.

The output of a layer step on rank r may be off by

    sum_r allowed_r                      what each rank's partial sum may be off by
  + (n - 1) half_ulp(sum_r |out_r|)      n - 1 additions in the dtype of the partials
  + half_ulp(|x| + sum_r |out_r|)        the residual, added in the dtype of the output

where |out_r| is at most |p_r| + allowed_r, and the order of the additions, which the
collective chooses, does not matter (`ranks.reduce_rounding`).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from mxmoe.conformance.bounds.compare_numbers import compare_numbers
from mxmoe.conformance.bounds.propagated import half_ulp
from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.rank_groups import ranks_of
from mxmoe.conformance.judging.group_outputs import group_of
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.judging.numbers import difference_lines
from mxmoe.conformance.judging.ranks import need_shards
from mxmoe.conformance.judging.ranks import reduce_rounding
from mxmoe.conformance.judging.ranks import why_sum_lines
from mxmoe.conformance.ranks.blame import RankFailure
from mxmoe.conformance.ranks.launch import launch
from mxmoe.conformance.ranks.plan import LAYER_STEP
from mxmoe.conformance.ranks.plan import Plan
from mxmoe.conformance.time_limit import CALL_SECONDS
from mxmoe.conformance.verdict import Failure
from mxmoe.conformance.verdict import NotJudged
from mxmoe.conformance.verdict import Verdict
from mxmoe.conformance.verdict import not_run
from mxmoe.conformance.why_numbers.ranks.apart import why_each
from mxmoe.conformance.why_numbers.ranks.sum import explain_sum

WHAT = "layer step"


def judge_processes(
    judge: Judge,
    world: int,
    examples: Sequence[Case],
    *,
    call_seconds: float = CALL_SECONDS,
) -> None:
    """Raise `Failure` unless every case comes out right on every one of `world` ranks.

    All of `examples` that are supported are computed in one launch.
    """
    need_shards(judge, "forward")
    _need_devices(judge, world)
    cases = _cases(judge, world, examples)
    plan = Plan(
        world=world,
        spec=judge.subject.spec,
        device=judge.subject.device.type,
        cases=tuple(map(str, cases)),
        checkpoint=str(judge.settings.checkpoint_folder),
        call_seconds=call_seconds,
        parent=os.getpid(),
        layer_steps=(LAYER_STEP,) * len(cases),
    )
    with tempfile.TemporaryDirectory(prefix="mxmoe-ranks-") as folder:
        launched = launch(Path(folder), plan)
    for number, results in enumerate(launched.results):
        partials, outputs = zip(*results, strict=True)
        check = partial(judge_step, partials=partials, outputs=outputs)
        judge.one(check, cases[number])
    if launched.failure is not None:
        raise _ended(judge, cases, launched.failure)


def judge_step(
    judge: Judge,
    case: Case,
    partials: Sequence[torch.Tensor],
    outputs: Sequence[torch.Tensor],
) -> None:
    """What every rank of one case has computed: its partial sum, the layer step."""
    group = group_of(judge, case)
    residual = group.data.hidden_states.double()
    truth = residual + group.whole
    magnitude = (group.partials.abs() + group.allowed).sum(dim=0)
    additions = len(partials) - 1
    for r, out in enumerate(outputs):
        rounding = reduce_rounding(magnitude, additions, partials[r].dtype)
        rounding = rounding + half_ulp(residual.abs() + magnitude + rounding, out.dtype)
        allowed = group.allowed.sum(dim=0) + rounding
        difference = compare_numbers(out, truth, allowed)
        judge.saw(difference.worst, stage="all_reduce")
        if difference.within:
            continue
        lines = difference_lines(difference, group.data)
        said = why_each(judge, group, partials)
        lines += said or [
            "each rank's partial sum is right: what is wrong comes after it",
            *why_sum_lines(explain_sum(out, group.terms(rounding, own=r))),
        ]
        raise judge.fail(
            Verdict.NONFINITE if difference.nonfinite else Verdict.MISMATCH,
            lines,
            case=case,
            what=f"{WHAT}, rank {r} of {len(outputs)} ({group.ranks[r].label()})",
            tensors={"found": out, "expected": truth, "allowed": allowed}
            | {f"partial.{q}": part for q, part in enumerate(partials)},
        )


def _need_devices(judge: Judge, world: int) -> None:
    if judge.subject.device.type != "cuda":
        return
    here = torch.cuda.device_count()
    if here < world:
        raise not_run(f"needs {world} GPUs, one for each rank; this machine has {here}")


def _cases(judge: Judge, world: int, examples: Sequence[Case]) -> list[Case]:
    """Those of `examples` that the candidate supports on every rank, or the one asked.

    Raises `NotJudged` if there is none.
    """
    asked = judge.settings.case
    if asked is not None:
        if asked.shard.tp_size * asked.shard.ep_size != world:
            raise not_run(f"--case asks for {asked}")
        examples = (asked,)
    refusal: NotJudged | None = None
    found = []
    for case in examples:
        case = replace(case, shard=judge.subject.capabilities.align(case.shard))
        config = case.config or judge.settings.checkpoint.config
        try:
            for rank in ranks_of(case.shard):
                judge.subject.require(config, rank)
        except NotJudged as error:
            refusal = error
            continue
        found.append(case)
    if not found:
        assert refusal is not None
        raise refusal
    return found


def _ended(judge: Judge, cases: Sequence[Case], failure: RankFailure) -> Failure:
    case = cases[failure.case] if failure.case >= 0 else None
    lines = list(failure.lines)
    if failure.rank is not None and case is not None:
        own = ranks_of(case.shard)[failure.rank].label()
        lines[0] = f"{lines[0]} [{own}]"
    judge.record.case = None if case is None else str(case)
    return judge.fail(failure.verdict, lines, case=case, what=WHAT)
