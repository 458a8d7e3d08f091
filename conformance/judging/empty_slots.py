"""A slot without an expert, id -1, contributes nothing, whatever its weight."""

from __future__ import annotations

from dataclasses import replace

from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.designed import CaseData
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.verdict import Verdict
from mxmoe.conformance.why_numbers.pairs.two_outputs import Side
from mxmoe.conformance.why_numbers.pairs.two_outputs import explain_sides
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
    outputs = []
    for one in given:
        x = judge.inputs(case, one)
        out = judge.subject.forward(prepared, x.hidden_states, x.routing)
        outputs.append(out.detach().cpu().clone())
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
            lines += explain_sides(sides[:2], judge.subject.arithmetic)
        raise judge.fail(Verdict.MISMATCH, lines, case=case, what="id -1")


def _weighted(data: CaseData, weight: float) -> CaseData:
    weights = data.routing.weights.masked_fill(data.routing.ids < 0, weight)
    return replace(data, routing=Routing(data.routing.ids, weights))
