"""Token counts and neighbours: what one token has to do with the others."""

from __future__ import annotations

from dataclasses import replace

import torch

from mxmoe.conformance.bounds.compare_numbers import compare_numbers
from mxmoe.conformance.bounds.propagated import Judged
from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.designed import CaseData
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.judging.numbers import difference_lines
from mxmoe.conformance.verdict import Verdict
from mxmoe.conformance.why_numbers.moved import ranges
from mxmoe.conformance.why_numbers.pairs.called_again import Calls
from mxmoe.conformance.why_numbers.pairs.neighbours import spoiled_by
from mxmoe.conformance.why_numbers.why_lines import why_lines
from mxmoe.reference.types import Routing

# Every count up to one tile of 128 and a few more, then both sides of 256: faults
# have been seen that live in one bucket of token counts only.
TOKEN_COUNTS = (*range(1, 137), 255, 256, 257)


def every_token_count(judge: Judge, case: Case) -> None:
    """The first n tokens of one batch, for every n; the truth is computed once."""
    data = judge.data(case)
    judged = judge.judged(case, data)
    prepared = judge.subject.prepare(data.weights, data.config, case.shard)
    counts = [count for count in TOKEN_COUNTS if count <= case.tokens]
    for count in counts:
        part = _first(data, count)
        inputs = judge.inputs(case, part)
        out = judge.subject.forward(prepared, inputs.hidden_states, inputs.routing)
        few = judged.of_tokens(slice(0, count))
        truth, allowed = few.truth["combine"], few.allowed["combine"]
        difference = compare_numbers(out, truth, allowed)
        judge.saw(difference.worst)
        if not difference.within:
            lines = difference_lines(difference, part)
            if not judge.record.searching:
                lines += why_lines(
                    case,
                    part,
                    few,
                    out.detach().cpu(),
                    judge.subject.arithmetic,
                    difference.worst,
                )
                lines += _wrong_counts(judge, case, data, judged, counts)
            raise judge.fail(
                Verdict.NONFINITE if difference.nonfinite else Verdict.MISMATCH,
                lines,
                case=case,
                what=f"output of {count} tokens, where every smaller count is right",
                tensors={"found": out, "expected": truth, **_inputs(data)},
            )


def _first(data: CaseData, count: int) -> CaseData:
    """The first `count` tokens of `data`."""
    routing = Routing(data.routing.ids[:count], data.routing.weights[:count])
    hidden = data.hidden_states[:count]
    return replace(data, hidden_states=hidden, routing=routing)


def _wrong_counts(
    judge: Judge, case: Case, data: CaseData, judged: Judged, counts: list[int]
) -> list[str]:
    """At which counts the output is wrong; none if the candidate fails in a call."""
    calls, wrong = Calls(judge, case), torch.zeros(max(counts) + 1, dtype=torch.bool)
    try:
        for count in counts:
            out, few = calls.out(_first(data, count)), judged.of_tokens(slice(0, count))
            truth, allowed = few.truth["combine"], few.allowed["combine"]
            wrong[count] = not compare_numbers(out, truth, allowed).within
    except Exception:
        return []
    total = int(wrong.sum())
    return [f"wrong at {total} of {len(counts)} counts: {ranges('count', wrong)}"]


def bad_neighbour(judge: Judge, case: Case) -> None:
    """One token's hidden states are NaN, then Inf: every other token is right."""
    data = judge.data(case)
    judged = judge.judged(case, data)
    prepared = judge.subject.prepare(data.weights, data.config, case.shard)
    bad = case.tokens // 2
    others = torch.arange(case.tokens) != bad
    for value in (torch.nan, torch.inf):
        hidden = data.hidden_states.clone()
        hidden[bad] = value
        inputs = judge.inputs(case, replace(data, hidden_states=hidden))
        out = judge.subject.forward(prepared, inputs.hidden_states, inputs.routing)
        difference = compare_numbers(
            out.cpu()[others],
            judged.truth["combine"][others],
            judged.allowed["combine"][others],
        )
        if not difference.within:
            wrong = torch.zeros(case.tokens, dtype=torch.bool)
            wrong[others] = difference.bad.any(dim=1)
            raise judge.fail(
                Verdict.NONFINITE if difference.nonfinite else Verdict.MISMATCH,
                [
                    f"token {bad} holds {value}: of the {int(others.sum())} other "
                    f"tokens {int(wrong.sum())} are out of bound",
                    f"why    wrong are {spoiled_by(bad, wrong, data.routing.ids)}",
                ],
                case=case,
                what="neighbours",
                tensors={"found": out, **_inputs(inputs)},
            )


def _inputs(data: CaseData) -> dict[str, torch.Tensor]:
    return {
        "hidden_states": data.hidden_states,
        "routing.ids": data.routing.ids,
        "routing.weights": data.routing.weights,
    }
