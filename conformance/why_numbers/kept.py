"""Why an output is wrong: a part of the input is not followed.

What a candidate keeps by shape, or by the address of an object, it uses again for
another layer. So one part of the input at a time is changed on the failing case: the
true output changes, and the candidate's does not.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import replace

import torch

from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.designed import CaseData
from mxmoe.conformance.cases.designed import make_case_data
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.why_numbers.telling_case import Told
from mxmoe.reference.types import Routing

_WEIGHTS = {
    "gate_up weights": ("gate_up_blocks", "gate_up_scales"),
    "gate_up bias": ("gate_up_bias",),
    "down weights": ("down_blocks", "down_scales"),
    "down bias": ("down_bias",),
}


def explain_kept(
    judge: Judge,
    case: Case,
    data: CaseData,
    run: Callable[[Judge, Case, CaseData], torch.Tensor],
    told: Told | None = None,
) -> list[str]:
    """One sentence on the parts of `data` that the output does not follow, or none.

    run : gives the output [t, h] of a case with other data. told : if it is wrong too,
    it must not follow there either: something else may spoil all of a small output.
    """
    judge = judge.aside()
    try:
        kept = _not_followed(judge, case, data, run)
        if kept and told is not None and told.wrong:
            there = _not_followed(judge, told.case, told.data, run)
            kept = [name for name in kept if name in there]
    # It explains a failure and must not become another one.
    except Exception:
        return []
    if not kept:
        return []
    return [
        f"not followed: {', '.join(kept)}. Others of the same shape do not change the "
        "output: they are never read, or kept from an earlier call"
    ]


def _not_followed(
    judge: Judge,
    case: Case,
    data: CaseData,
    run: Callable[[Judge, Case, CaseData], torch.Tensor],
) -> list[str]:
    """The parts of `data` that change the true output and not the candidate's."""
    kept = []
    before = run(judge, case, data).detach().cpu().double()
    judged = judge.judged(case, data)
    truth, allowed = judged.truth["combine"], judged.allowed["combine"]
    for name, changed in _changes(case, data):
        after = run(judge, case, changed).detach().cpu().double()
        # What is not finite tells nothing here, and counts as another output.
        if not bool(((after - before).abs() <= allowed).all()):
            continue
        other = judge.judged(case, changed).truth["combine"]
        if bool(((other - truth).abs() > 2 * allowed).any()):
            kept.append(name)
    return kept


def _changes(case: Case, data: CaseData) -> Iterator[tuple[str, CaseData]]:
    """(a part, data with another such part), the others as they are."""
    like = replace(case, layer=None, config=data.config, seed=case.seed + 1)
    other = make_case_data(like, hidden_dtype=data.hidden_states.dtype)
    for name, tensors in _WEIGHTS.items():
        parts = {n: getattr(other.weights, n) for n in tensors}
        if None not in parts.values():
            yield name, replace(data, weights=replace(data.weights, **parts))
    yield "hidden states", replace(data, hidden_states=other.hidden_states)
    ids, weights = data.routing.ids, data.routing.weights
    # Slots without an expert stay without one: what -1 is taken for is not asked here.
    next_ids = torch.where(ids < 0, ids, (ids + 1) % data.config.experts)
    yield "expert ids", replace(data, routing=Routing(next_ids, weights))
    weighed = Routing(ids, other.routing.weights.to(weights.dtype))
    yield "routing weights", replace(data, routing=weighed)
