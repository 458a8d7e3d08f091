"""Which stage of an output is wrong first, read off the output alone.

A case is asked whose second GEMM has twice as many rows as a token has lanes of its
slots: see `read_off`. If activations give the output, it is they that are wrong, or
what the second GEMM makes of each lane: one that is 0 and one not read are alike.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator

import numpy as np
import torch

from mxmoe.conformance.bounds.propagated import CONFIDENCE
from mxmoe.conformance.bounds.propagated import Judged
from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.designed import CaseData
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.why_numbers.expert_content import Experts
from mxmoe.conformance.why_numbers.layer_steps import situation_of
from mxmoe.conformance.why_numbers.stages.lane_words import lane_words
from mxmoe.conformance.why_numbers.stages.lane_words import slot_words
from mxmoe.conformance.why_numbers.stages.lane_words import source_words
from mxmoe.conformance.why_numbers.stages.read_off import ReadOff
from mxmoe.conformance.why_numbers.stages.read_off import read_activations
from mxmoe.conformance.why_numbers.telling_case import first_accepted
from mxmoe.reference.types import Arithmetic
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Routing
from mxmoe.reference.types import Shard

Tensor = torch.Tensor

# Experts and lanes of a rank: three K blocks; then what kernels of larger tiles take.
_SHAPES = ((8, 96), (8, 64), (8, 128), (4, 256), (8, 32))
_TOKENS = 37
# Rows of the second GEMM for each unknown lane: as much is left to judge by as is used.
_ROWS_OF_LANE = 2
# Hidden sizes are multiples of this, which most kernels take.
_ROUND = 128
# Linear systems of so many unknowns, one for each of 16 tokens, take a second.
_MOST_UNKNOWN = 512
_TOKENS_READ = 16


def first_wrong_stage(
    judge: Judge,
    like: Case,
    config: MoEConfig,
    run: Callable[[Judge, Case, CaseData], Tensor],
) -> list[str]:
    """At most one line; none where the candidate is right or cannot be asked.

    like, config : the failing case and its layer. run : gives the output [t, h] of a
    case. Whatever it raises is not another failure.
    """
    judge = judge.aside()
    try:
        case = _case(judge, like, config)
        if case is None:
            return []
        data = judge.data(case)
        out = run(judge, case, data).detach().cpu().double()
        judged = judge.judged(case, data)
        words = _stage(out, case, data, judged, judge.subject.arithmetic)
    except Exception:
        return []
    return [f"first bad stage: {words} (read off the output of case {case})"] * (
        words != ""
    )


def _case(judge: Judge, like: Case, own: MoEConfig) -> Case | None:
    return first_accepted(judge, like, own, _sizes(own.top_k, like.shard), _TOKENS)


def _sizes(top_k: int, shard: Shard) -> Iterator[dict[str, int]]:
    """Layers whose second GEMM is tall."""
    for experts, lanes in _SHAPES:
        experts, unknown = max(experts, top_k), top_k * lanes
        if unknown <= _MOST_UNKNOWN and experts % shard.ep_size == 0:
            hidden = -(-_ROWS_OF_LANE * unknown // _ROUND) * _ROUND
            every = lanes * shard.tp_size
            yield {"experts": experts, "hidden": hidden, "intermediate": every}


def _stage(
    out: Tensor, case: Case, data: CaseData, judged: Judged, arithmetic: Arithmetic
) -> str:
    """The first wrong stage, in words; "" if the output is right or not finite."""
    truth, allowed = judged.truth["combine"], judged.allowed["combine"]
    wrong = ((out - truth).abs() > allowed).any(dim=1)
    if not wrong.any() or not out.isfinite().all():
        return ""
    tokens = wrong.nonzero()[:_TOKENS_READ, 0]
    experts = Experts(situation_of(case, data), arithmetic)
    read = read_activations(out, tokens, judged, experts)
    if not read.explain_all:
        return (
            "the second GEMM's rows or its bias, a slot's expert, or the combine; "
            "no activations give this output"
        )
    return _of_lanes(read, judged, experts, data.routing)


def _of_lanes(read: ReadOff, judged: Judged, experts: Experts, routing: Routing) -> str:
    """Which activations are wrong, and what is there in their place."""
    truth = judged.truth["activation"][read.tokens]
    allowed = judged.allowed["activation"][read.tokens]
    room = CONFIDENCE * read.deviation + allowed
    error = (read.found - truth).abs()
    bad = error > room
    if not bad.any():
        return ""
    ids = routing.ids[read.tokens]
    served = read.deviation.isfinite().all(dim=2)
    at = int((error / room).flatten().argmax())
    n, k, i = (int(x) for x in np.unravel_index(at, bad.shape))
    where = slot_words(bad.any(dim=2), served, ids)
    z = judged.truth["gate_up"][read.tokens]
    what = source_words(read, bad, truth, z, experts.situation.config.activation)
    config, lanes = experts.situation.config, bad.flatten(0, 1).any(dim=0)
    # Without a bias a slot's weight does what a factor of all of its lanes does.
    weight = "" if config.has_bias or not lanes.all() else ", routing weight"
    return (
        f"gate_up, activation{weight} or K of the second GEMM, "
        f"{lane_words(lanes)}{where}{what}; what follows is right; "
        f"token {int(read.tokens[n])}, slot {k} (expert {int(ids[n, k])}), lane {i}: "
        f"expected {float(truth[n, k, i]):.4g}, found {float(read.found[n, k, i]):.4g}"
        f" +- {float(read.deviation[n, k, i]):.2g}"
    )
