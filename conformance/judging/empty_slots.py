"""A slot without an expert, id -1, contributes nothing, whatever its weight."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.designed import CaseData
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.judging.numbers import own_route
from mxmoe.conformance.judging.numbers import run_route
from mxmoe.conformance.verdict import Verdict
from mxmoe.conformance.why_numbers.pairs.two_outputs import Side
from mxmoe.conformance.why_numbers.pairs.two_outputs import explain_sides
from mxmoe.conformance.why_numbers.pairs.two_outputs import place
from mxmoe.conformance.why_numbers.telling_case import Told
from mxmoe.conformance.why_numbers.telling_case import tell
from mxmoe.conformance.why_numbers.why_lines import causes_there
from mxmoe.conformance.why_numbers.why_lines import names_cause
from mxmoe.conformance.why_numbers.why_lines import why_lines
from mxmoe.reference.types import Routing

# A router that fills empty slots writes 0; the largest is what `no_expert` draws.
_WEIGHTS = (0.0, 1.0, -1000.0)


def judge_empty_slots(judge: Judge, case: Case) -> None:
    """Equal outputs for every weight of the empty slots."""
    data = judge.data(case)
    if not (data.routing.ids < 0).any():
        return
    prepared = judge.subject.prepare(data.weights, data.config, case.shard)
    given = [_weighted(data, weight) for weight in _WEIGHTS]
    # First a call that serves them: they may find what it leaves behind.
    owned = case.shard.expert_range(data.config)
    outputs = []
    for one in (_filled(data, owned), *given):
        x = judge.inputs(case, one)
        out = judge.subject.forward(prepared, x.hidden_states, x.routing)
        outputs.append(out.detach().cpu().clone())
    outputs = outputs[1:]
    judged = judge.judged(case, data)
    # Without a claim of determinism two runs may differ by their rounding.
    slack = 0 if judge.subject.capabilities.deterministic else 2
    allowed = slack * judged.allowed["combine"]
    for weight, out in zip(_WEIGHTS[1:], outputs[1:], strict=True):
        difference = (out.double() - outputs[0].double()).abs()
        wrong = ~(difference <= allowed)
        if not wrong.any():
            continue
        token = int(wrong.any(dim=1).int().argmax())
        lines = [
            f"token {token} changes by {float(difference[token].max()):.3g} when the "
            f"weight of its empty slot goes from 0 to {weight:g}"
        ]
        if not judge.record.searching:
            sides = [
                Side(
                    words=f"the output with weight {w:g}",
                    case=case,
                    data=one,
                    judged=judged,
                    out=o,
                )
                for w, one, o in zip(_WEIGHTS, given, outputs, strict=True)
            ]
            lines += _why(judge, sides[:2])
        raise judge.fail(Verdict.MISMATCH, lines, case=case, what="id -1")


def _why(judge: Judge, sides: list[Side]) -> list[str]:
    """The cause. Weights of 0 hide what empty slots hold: what is wrong all the same
    is told as that of any output is."""
    arithmetic, plain = judge.subject.arithmetic, sides[0]
    tell = partial(_told, judge, plain.case, plain.data)
    if not plain.worst <= 1:
        lines = why_lines(
            plain.case,
            plain.data,
            plain.judged,
            plain.out,
            arithmetic,
            plain.worst,
            tell,
        )
        if names_cause(lines):
            return [f"{line} ({place(plain, sides)})" for line in lines]
    return explain_sides(sides, arithmetic, elsewhere=lambda: _elsewhere(judge, tell()))


def _told(judge: Judge, case: Case, data: CaseData) -> Told | None:
    """A telling case, of which the former call is known as well."""
    if not judge.record.telling:
        return None
    run = partial(run_route, route=own_route(judge.subject))
    return tell(judge, case, data.config, run)


def _elsewhere(judge: Judge, told: Told | None) -> list[str]:
    """What is true of a telling case."""
    if told is None:
        return []
    fits = causes_there(told, judge.subject.arithmetic)
    return [f"{fit} (in case {told.case}{told.how})" for fit in fits]


def _filled(data: CaseData, owned: range) -> CaseData:
    """Other tokens, each of whose slots has an expert, of `owned` if any."""
    ids, empty = data.routing.ids, data.routing.ids < 0
    free = torch.zeros(len(ids), data.config.experts)
    free[:, owned.start : owned.stop] = 1
    taken = torch.nn.functional.one_hot(ids.long() + 1, data.config.experts + 1)
    free -= 2 * taken.sum(dim=1)[:, 1:]
    order = free.argsort(dim=1, descending=True, stable=True)
    nth = (empty.cumsum(dim=1) - 1).clamp(min=0)
    filled = torch.where(empty, order.gather(1, nth).to(ids.dtype), ids)
    weights = data.routing.weights.masked_fill(empty, 1)
    others = data.hidden_states.flip(0).roll(1, 1)
    return replace(data, hidden_states=others, routing=Routing(filled, weights))


def _weighted(data: CaseData, weight: float) -> CaseData:
    weights = data.routing.weights.masked_fill(data.routing.ids < 0, weight)
    return replace(data, routing=Routing(data.routing.ids, weights))
