"""One measurement from shape to result: ceilings, workload, contest, in one process."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence

import torch

from mxmoe.evals.moe_contest.ceilings import measure_ceilings
from mxmoe.evals.moe_contest.contest import Contest
from mxmoe.evals.moe_contest.contestant import Contestant
from mxmoe.evals.moe_contest.judgement import Judgement
from mxmoe.evals.moe_contest.phases import Phases
from mxmoe.evals.moe_contest.result import Result
from mxmoe.evals.moe_contest.workload import make_workload
from mxmoe.reference.types import MoEConfig


def measure_moe(
    contestants: Sequence[Contestant],
    config: MoEConfig,
    counts: Sequence[int],
    device: torch.device,
    *,
    replays: int,
    seed: int,
    say: Callable[[str], None],
) -> Result:
    """Judge and time `contestants`, ours first, with batches of `counts` tokens."""
    phases = Phases()
    if device.type == "cuda":
        # Other people's kernels run on the current device, wherever their tensors are.
        torch.cuda.set_device(device)
    with phases("ceilings"):
        ceilings = measure_ceilings(device)
    say("weights and tokens: drawing")
    with phases("weights and tokens"):
        workload = make_workload(config, max(counts), seed, device)
    contest = Contest(
        workload=workload,
        judgement=Judgement(workload, counts, seed),
        phases=phases,
        replays=replays,
        say=say,
    )
    return Result(
        contestants=contestants,
        outcome=contest.hold(contestants, counts),
        loads=[workload.load(count) for count in counts],
        ceilings=ceilings,
        phases=phases,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    )
