"""State: what one call leaves behind for the next, and what it must not touch."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from mxmoe.conformance.bounds.compare_numbers import compare_numbers
from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.designed import CaseData
from mxmoe.conformance.judging.compare_bytes import as_bytes
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.judging.numbers import difference_lines
from mxmoe.conformance.judging.poison import CLEAN
from mxmoe.conformance.judging.poison import POISON
from mxmoe.conformance.judging.poison import memory_of
from mxmoe.conformance.verdict import Verdict
from mxmoe.conformance.verdict import not_run
from mxmoe.conformance.why_numbers.pairs.called_again import Calls
from mxmoe.conformance.why_numbers.pairs.former_calls import Former
from mxmoe.conformance.why_numbers.pairs.former_calls import why_state
from mxmoe.conformance.why_numbers.pairs.standing import why_standing
from mxmoe.conformance.why_numbers.pairs.two_outputs import Side
from mxmoe.conformance.why_numbers.pairs.two_outputs import bits_lines
from mxmoe.conformance.why_numbers.pairs.unwritten_memory import why_unwritten
from mxmoe.reference.types import PreparedWeights
from mxmoe.reference.types import Routing

Why = Callable[[Side], list[str]]
_REPEATS = 8
FIRST_CALL = "first call: no matter of state, see the numbers"


def second_call(judge: Judge, case: Case) -> None:
    """A, B, C, A with one set of prepared weights: every result right, A's equal.

    B has other sizes, C has those of A, as the replay of a captured graph. Before the
    second A another layer is prepared, and must not take the first's place.
    """
    a = judge.data(case)
    prepared = judge.subject.prepare(a.weights, a.config, case.shard)
    other = replace(case, seed=case.seed + 1, tokens=case.tokens + 2)
    next_layer = judge.data(other)
    b = replace(next_layer, weights=a.weights)
    first = _forward(judge, case, a, prepared)
    _within(judge, case, a, first, FIRST_CALL)
    kept = first.clone()
    between = _forward(judge, other, b, prepared)
    calls = [Former("the first call", a, kept)]
    why = partial(why_state, judge, calls=tuple(calls))
    _within(judge, case, b, between, "second call, other input", why)
    _stays(judge, case, first, kept, "second", between)
    same_size = replace(case, seed=case.seed + 2)
    c = replace(judge.data(same_size), weights=a.weights)
    third = _forward(judge, same_size, c, prepared)
    _stays(judge, case, first, kept, "third", third)
    calls.append(Former("the second call", b, between))
    what = "third call, other input of the first's size"
    _within(judge, case, c, third, what, partial(why_state, judge, calls=calls))
    judge.subject.prepare(next_layer.weights, a.config, case.shard)
    again = _forward(judge, case, a, prepared)
    calls = [
        Former("the third call", c, third),
        calls[1],
        Former("the layer that was prepared last", next_layer),
    ]
    why = partial(why_state, judge, calls=calls)
    _alike(judge, case, a, kept, again, "second call, same input", why)


def zero_tokens(judge: Judge, case: Case) -> None:
    """[0, h] in, [0, h] out."""
    data = judge.data(case)
    prepared = judge.subject.prepare(data.weights, data.config, case.shard)
    _forward(judge, case, data, prepared)


def input_unmodified(judge: Judge, case: Case) -> None:
    """What the caller owns is the same after `forward`, byte for byte."""
    data = judge.data(case)
    prepared = judge.subject.prepare(data.weights, data.config, case.shard)
    inputs = judge.inputs(case, data)
    owned = {
        "hidden_states": inputs.hidden_states,
        "routing.ids": inputs.routing.ids,
        "routing.weights": inputs.routing.weights,
        **{n: t for n, t in prepared.items() if isinstance(t, torch.Tensor)},
    }
    before = {name: as_bytes(tensor).clone() for name, tensor in owned.items()}
    judge.subject.forward(prepared, inputs.hidden_states, inputs.routing)
    for name, tensor in owned.items():
        if not torch.equal(before[name], as_bytes(tensor)):
            line = f"forward changed the caller's {name}"
            raise judge.fail(Verdict.MISMATCH, [line], case=case, what="input")


def poisoned(judge: Judge, case: Case) -> None:
    """Prepared bytes and output are the same in memory of 0x00 and of 0xFF."""
    subject = judge.subject
    data = judge.data(case)
    with memory_of(CLEAN, subject.device):
        clean = subject.prepare(data.weights, data.config, case.shard)
    with memory_of(POISON, subject.device):
        dirty = subject.prepare(data.weights, data.config, case.shard)
    for name, tensor in clean.items():
        other = dirty.get(name)
        if not isinstance(tensor, torch.Tensor) or not isinstance(other, torch.Tensor):
            continue
        if not torch.equal(as_bytes(tensor), as_bytes(other)):
            count = int((as_bytes(tensor) != as_bytes(other)).sum())
            line = f"{name}: {count} bytes depend on what memory held before prepare"
            raise judge.fail(Verdict.MISMATCH, [line], case=case, what="poison")
    if not subject.has("forward"):
        return
    expected = _forward_in(CLEAN, judge, case, data, clean)
    _within(judge, case, data, expected, FIRST_CALL)
    found = _forward_in(POISON, judge, case, data, clean)

    def why(side: Side) -> list[str]:
        try:
            with memory_of(CLEAN, subject.device):
                again = Calls(judge, case).out(data)
        # A candidate may die of this call; the failure is known without it.
        except Exception:
            return []
        return why_unwritten(side, again)

    _alike(judge, case, data, expected, found, "poisoned memory before forward", why)


def raw_weights_freed(judge: Judge, case: Case) -> None:
    """No raw tensor outlives `prepare`, except as a prepared tensor itself."""
    data = judge.data(case)
    raw = data.weights.clone()
    alive = {n: StorageWeakRef(t.untyped_storage()) for n, t in raw.tensors().items()}
    sizes = {name: tensor.nbytes for name, tensor in raw.tensors().items()}
    addresses = {n: t.untyped_storage().data_ptr() for n, t in raw.tensors().items()}
    prepared = judge.subject.prepare(raw, data.config, case.shard)
    if not all(isinstance(value, torch.Tensor) for value in prepared.values()):
        raise not_run("not observable: prepare returns more than tensors")
    reused = {
        value.untyped_storage().data_ptr()
        for value in prepared.values()
        if isinstance(value, torch.Tensor)
    }
    del raw

    def still_held() -> list[str]:
        return [
            name
            for name, storage in alive.items()
            if not storage.expired() and addresses[name] not in reused
        ]

    if still_held():
        gc.collect()  # only now: it is slow, and cycles are no fault
    held = still_held()
    if held:
        total = sum(sizes[name] for name in held)
        line = f"after prepare, {', '.join(held)} ({total} bytes) are still held"
        raise judge.fail(Verdict.MISMATCH, [line], case=case, what="raw weights")


def deterministic(judge: Judge, case: Case) -> None:
    """The same call gives the same bits, every time."""
    data = judge.data(case)
    prepared = judge.subject.prepare(data.weights, data.config, case.shard)
    first = _forward(judge, case, data, prepared)
    for repeat in range(1, _REPEATS):
        again = _forward(judge, case, data, prepared)
        if not _same_bits(first, again):
            where = int((as_bytes(first) != as_bytes(again)).any(dim=1).int().argmax())
            line = (
                f"repeat {repeat} differs from the first call, first at token {where}"
            )
            dtype = judge.subject.arithmetic.output
            lines = [line, *bits_lines(first, again, dtype)]
            raise judge.fail(Verdict.MISMATCH, lines, case=case, what="determinism")


def batch_invariant(judge: Judge, case: Case) -> None:
    """About eight tokens, first and last among them: alone as in the batch."""
    data = judge.data(case)
    prepared = judge.subject.prepare(data.weights, data.config, case.shard)
    whole = _forward(judge, case, data, prepared)
    step = max(1, case.tokens // 8)
    for token in sorted({*range(0, case.tokens, step), case.tokens - 1}):
        one = slice(token, token + 1)
        alone = replace(
            data,
            hidden_states=data.hidden_states[one],
            routing=Routing(data.routing.ids[one], data.routing.weights[one]),
        )
        found = _forward(judge, case, alone, prepared)
        if not _same_bits(whole[one], found):
            line = (
                f"token {token} has other bits alone than in a batch of {case.tokens}"
            )
            dtype = judge.subject.arithmetic.output
            lines = [line, *bits_lines(whole[one], found, dtype)]
            if not judge.record.searching:
                lines += why_standing(judge, case, data, token)
            raise judge.fail(
                Verdict.MISMATCH, lines, case=case, what="batch invariance"
            )


def _forward(
    judge: Judge, case: Case, data: CaseData, prepared: PreparedWeights
) -> torch.Tensor:
    inputs = judge.inputs(case, data)
    return judge.subject.forward(prepared, inputs.hidden_states, inputs.routing)


def _forward_in(
    memory: int, judge: Judge, case: Case, data: CaseData, prepared: PreparedWeights
) -> torch.Tensor:
    """As `_forward`, where fresh memory is filled with one byte."""
    inputs = judge.inputs(case, data)
    with memory_of(memory, judge.subject.device):
        return judge.subject.forward(prepared, inputs.hidden_states, inputs.routing)


def _stays(
    judge: Judge,
    case: Case,
    first: torch.Tensor,
    kept: torch.Tensor,
    later: str,
    result: torch.Tensor,
) -> None:
    """Raise `Failure` unless the first call's result is what it was, `kept`.

    result : of the later call, which may lie in the same memory.
    """
    if _same_bits(first, kept):
        return
    lines = [f"the tensor returned by the first call changed during the {later}"]
    if first.untyped_storage().data_ptr() == result.untyped_storage().data_ptr():
        lines.append(
            "why    both results lie in one buffer, which each call writes over; "
            "return memory of its own for each call"
        )
    raise judge.fail(Verdict.MISMATCH, lines, case=case, what=f"{later} call")


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(as_bytes(one), as_bytes(other))


def _alike(
    judge: Judge,
    case: Case,
    data: CaseData,
    expected: torch.Tensor,
    found: torch.Tensor,
    what: str,
    why: Why | None = None,
) -> None:
    """Equal bits if determinism is declared; both within the bound in any case."""
    _within(judge, case, data, found, what, why)
    if judge.subject.capabilities.deterministic and not _same_bits(expected, found):
        where = int((as_bytes(expected) != as_bytes(found)).any(dim=1).int().argmax())
        line = f"token {where} has other bits, and determinism is declared"
        lines = [line, *bits_lines(expected, found, judge.subject.arithmetic.output)]
        raise judge.fail(Verdict.MISMATCH, lines, case=case, what=what)


def _within(
    judge: Judge,
    case: Case,
    data: CaseData,
    out: torch.Tensor,
    what: str,
    why: Why | None = None,
) -> None:
    """Raise `Failure` unless `out` is within its bound.

    why : explains it; the causes of any wrong output, if None.
    """
    judged = judge.judged(case, data)
    difference = compare_numbers(
        out, judged.truth["combine"], judged.allowed["combine"]
    )
    judge.saw(difference.worst)
    if difference.within:
        return
    lines = difference_lines(difference, data)
    if not judge.record.searching:
        side = Side(words=what, case=case, data=data, judged=judged, out=out)
        lines += why_state(judge, side, ()) if why is None else why(side)
    raise judge.fail(
        Verdict.NONFINITE if difference.nonfinite else Verdict.MISMATCH,
        lines,
        case=case,
        what=what,
        tensors={"found": out, "expected": judged.truth["combine"]},
    )
