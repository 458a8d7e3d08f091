"""Which calls of a layer are judged: of other numbers of tokens, and fused ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra 'hf'")

from mxmoe.conformance.faults.plain import subject_of
from mxmoe.evals.locate.batch_sizes import first_wrong_size
from mxmoe.evals.locate.evaluations import Evaluations
from mxmoe.evals.locate.layer import judge_layer
from mxmoe.evals.locate.not_looked_at import not_looked_at
from mxmoe.reference.types import Routing


@pytest.mark.parametrize("traced", [True, False])
def test_a_right_loop_is_not_blamed(loop, under, traced: bool) -> None:
    under_test = under(loop(traced=traced))
    assert not judge_layer(under_test, Evaluations()).wrong
    count = Evaluations()
    assert first_wrong_size(under_test, count) is None
    assert count.sizes == 11


@pytest.mark.parametrize(
    ("wrong", "size"),
    [
        (lambda t: t == 1, 1),
        (lambda t: t % 16 == 0, 16),
        (lambda t: t > 256, 257),
    ],
    ids=["one token", "whole tiles", "more than a tile"],
)
def test_a_fault_of_some_numbers_of_tokens_is_found(
    loop, under, wrong: Callable[[int], bool], size: int
) -> None:
    candidate = loop(out=lambda out: 1.5 * out if wrong(len(out)) else out)
    found = first_wrong_size(under(candidate), Evaluations())
    assert found is not None
    assert len(found.inputs.tokens) == size


def test_forward_fused_is_judged_too(loop, under) -> None:
    right = loop()

    def fused(p: Any, x: Any, router: Any, bias: Any, top_k: int) -> torch.Tensor:
        logits = x.float() @ router.float().T + bias.float()
        best = logits.topk(top_k, dim=1)
        # Softmax over all experts instead of those that were chosen.
        weights = logits.softmax(dim=1).gather(1, best.indices)
        return right.forward(p, x, Routing(best.indices.int(), weights))

    right.forward_fused = fused
    count = Evaluations()
    result = judge_layer(under(right), count)
    assert result.divergence is not None
    assert result.numbers.notes[0].startswith("only in forward_fused")
    assert count.fused == 1


def test_what_was_not_looked_at_is_said(loop) -> None:
    right = loop()
    assert not_looked_at(subject_of(right)) == []
    right.all_reduce = sum
    right.capabilities = {**right.capabilities, "tactics": lambda config, t: [0, 1]}
    (ranks, tactics) = not_looked_at(subject_of(right))
    assert ranks.startswith("not looked at: all_reduce")
    assert tactics.startswith("not looked at: tactics")
