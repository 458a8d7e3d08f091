"""Each law holds for honest candidates, says what it compares, and can fail."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.designed import make_case_data
from mxmoe.conformance.faults.laws import BROKEN
from mxmoe.conformance.faults.plain import PLAIN
from mxmoe.conformance.faults.plain import claiming
from mxmoe.conformance.faults.plain import subject_of
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.judging.laws import judge_law
from mxmoe.conformance.judging.routing_laws import judge_routing_law
from mxmoe.conformance.judging.trial import repeatable_settings
from mxmoe.conformance.laws.layer import LAWS
from mxmoe.conformance.laws.routing import ROUTING_LAWS
from mxmoe.conformance.settings import Settings
from mxmoe.conformance.verdict import Failure
from mxmoe.reference.moe import moe
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Shard

SHAPE = MoEConfig(hidden=64, intermediate=96, experts=4, top_k=2)
SHARDS = (Shard(), Shard(tp_size=2, tp_rank=1, ep_size=2, ep_rank=1))
CASE = Case(config=SHAPE, tokens=9, seed=1)


@pytest.fixture(scope="module")
def settings() -> Iterator[Settings]:
    with repeatable_settings() as found:
        yield found


def broken(law: str, candidate: object, settings: Settings) -> str | None:
    """The text of the failure, or None where the law holds."""
    judge = Judge(subject_of(candidate), settings, "law")
    try:
        if law in LAWS:
            judge.one(lambda judge, case: judge_law(judge, case, LAWS[law]), CASE)
        else:
            rule = ROUTING_LAWS[law]
            judge_routing_law(judge, rule, experts=60, top_k=6, seed=0)
    except Failure as failure:
        return failure.text
    return None


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("shard", SHARDS, ids=Shard.label)
def test_the_truth_obeys_each_law(law: str, shard: Shard) -> None:
    data = make_case_data(Case(config=SHAPE, tokens=9, hot=("no_expert",)))
    pair = LAWS[law].pair(data, shard, np.random.default_rng(0))
    before, after = (
        moe(d.weights, d.config, d.hidden_states, d.routing, shard=shard)["combine"]
        for d in (pair.before, pair.after)
    )
    torch.testing.assert_close(
        after[pair.rows], pair.expect(before), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("law", LAWS)
def test_a_law_changes_its_input(law: str) -> None:
    data = make_case_data(Case(config=SHAPE, tokens=9))
    pair = LAWS[law].pair(data, Shard(), np.random.default_rng(0))
    inputs = [
        {**d.weights.tensors(), "x": d.hidden_states, "ids": d.routing.ids}
        | {"weights": d.routing.weights}
        for d in (pair.before, pair.after)
    ]
    assert any(not torch.equal(inputs[0][name], inputs[1][name]) for name in inputs[0])


@pytest.mark.parametrize("law", BROKEN)
def test_each_law_can_be_broken(law: str, settings: Settings) -> None:
    text = broken(law, BROKEN[law](), settings)
    assert text is not None
    statement = {**LAWS, **ROUTING_LAWS}[law].statement
    assert text.splitlines()[1].startswith(f"broken law: {statement} (")


def test_every_law_has_a_candidate_that_breaks_it() -> None:
    assert set(BROKEN) == {*LAWS, *ROUTING_LAWS}


@pytest.mark.parametrize("law", LAWS)
def test_a_law_is_exact_only_where_a_capability_says_so(
    law: str, settings: Settings
) -> None:
    """One unit in the last place, and only in the second call."""
    calls = []

    def forward(p: object, x: torch.Tensor, r: object, *, tactic: object = None):
        calls.append(1)
        out = PLAIN.forward(p, x, r)
        changed = (out[:, 0] != 0) & (len(calls) % 2 == 0)
        out.view(torch.int16)[:, 0] += changed
        return out

    claims = {"deterministic": True, "batch_invariant": True}
    for declared in ({}, claims):
        base = claiming(PLAIN, **declared)
        candidate = replace(base)
        object.__setattr__(candidate, "forward", forward)
        exact = bool(declared) and LAWS[law].exact_if is not None
        assert (broken(law, candidate, settings) is not None) == exact
