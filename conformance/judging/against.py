"""Two candidates compared with each other; neither is the truth."""

from __future__ import annotations

from dataclasses import replace

import torch

from mxmoe.conformance.bounds.compare_numbers import compare_numbers
from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.judging.compare_bytes import compare_bytes
from mxmoe.conformance.judging.compare_bytes import decoded
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.judging.numbers import difference_lines
from mxmoe.conformance.subject import Subject
from mxmoe.conformance.verdict import Verdict
from mxmoe.conformance.verdict import not_run
from mxmoe.reference.types import WHOLE


def other_of(judge: Judge) -> Subject:
    """The candidate given with ``--against``, if it is available."""
    other = judge.settings.against
    if other is None:
        raise not_run("no --against given")
    reason = other.unavailable()
    if reason is not None:
        raise not_run(f"{other.name} is not available: {reason}")
    return other


def prepared_bytes(judge: Judge, layer: int) -> None:
    """Same tensors, same bytes, for one layer of the checkpoint."""
    other = other_of(judge)
    judge.subject.need("prepare")
    other.need("prepare")
    config, weights = judge.layer_weights(layer)
    mine, theirs = (
        {n: t for n, t in s.prepare(weights, config, WHOLE).items() if _is_tensor(t)}
        for s in (judge.subject, other)
    )
    what = f"prepared bytes against {other.name} · layer {layer}"
    if mine.keys() != theirs.keys():
        line = f"expected tensors {', '.join(theirs)}, found {', '.join(mine)}"
        raise judge.fail(Verdict.MISMATCH, [line], what=what)
    for name, tensor in mine.items():
        wanted = theirs[name]
        assert isinstance(tensor, torch.Tensor)
        assert isinstance(wanted, torch.Tensor)
        if (tensor.shape, tensor.dtype) != (wanted.shape, wanted.dtype):
            line = (
                f"{name}: expected {wanted.dtype} {list(wanted.shape)}, "
                f"found {tensor.dtype} {list(tensor.shape)}"
            )
            raise judge.fail(Verdict.MISMATCH, [line], what=what)
        difference = compare_bytes(tensor, wanted)
        if difference is not None:
            lines = [
                f"{name}: {difference.count} of {difference.total} entries differ, "
                f"first at {list(difference.at)}",
                f"  {other.name} has {decoded(name, difference.expected)}, "
                f"{judge.subject.name} has {decoded(name, difference.found)}",
            ]
            raise judge.fail(Verdict.MISMATCH, lines, what=what)


def outputs(judge: Judge, case: Case) -> None:
    """|mine - theirs| within the sum of what each is allowed."""
    other = other_of(judge)
    other_judge = replace(judge, subject=other)
    data = judge.data(case)
    other.require(data.config, case.shard)
    one_lanes, other_lanes = (
        one.capabilities.align(case.shard).intermediate_range(data.config)
        for one in (judge.subject, other)
    )
    # Where they pad to other multiples, a rank may own other lanes.
    if one_lanes != other_lanes:
        return
    allowed = torch.zeros(1)
    results = []
    # Both get values that the coarser of the two input dtypes holds.
    both = [one.data(case) for one in (judge, other_judge)]
    coarse = max(
        (own.hidden_states for own in both), key=lambda x: torch.finfo(x.dtype).eps
    )
    for one, own in zip((judge, other_judge), both, strict=True):
        hidden = coarse.to(own.hidden_states.dtype)
        own = replace(own, hidden_states=hidden)
        prepared = one.subject.prepare(own.weights, own.config, case.shard)
        inputs = one.inputs(case, own)
        results.append(
            one.subject.forward(prepared, inputs.hidden_states, inputs.routing)
        )
        allowed = allowed + one.judged(case, own).allowed["combine"]
    mine, theirs = results
    expected = theirs.detach().to("cpu", torch.float64)
    difference = compare_numbers(mine, expected, allowed)
    judge.saw(difference.worst)
    if not difference.within:
        raise judge.fail(
            Verdict.NONFINITE if difference.nonfinite else Verdict.MISMATCH,
            difference_lines(difference, data),
            case=case,
            what=f"output against {other.name}",
            tensors={"found": mine, "other": theirs},
        )


def _is_tensor(value: object) -> bool:
    return isinstance(value, torch.Tensor)
