"""L3: what must follow from one output for another, whatever the truth is."""

from __future__ import annotations

import pytest

from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.strategies import SHARDS
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.judging.laws import judge_law
from mxmoe.conformance.laws.layer import LAWS
from mxmoe.reference.types import MoEConfig

pytestmark = [pytest.mark.numeric, pytest.mark.level("L3")]

# A tail of tokens, an odd count of blocks, more experts than slots.
EXAMPLES = (
    Case(config=MoEConfig(hidden=64, intermediate=96, experts=4, top_k=2), tokens=17),
)


@pytest.mark.parametrize("law", LAWS)
def test_law_holds(judge: Judge, law: str) -> None:
    """Bit for bit where the declared capabilities allow, else within rounding."""
    judge.subject.need("forward")
    judge.need_right_output()
    judge.for_all(
        lambda judge, case: judge_law(judge, case, LAWS[law]),
        hot=("strided", "no_expert", "one_route"),
        tokens=(2, 5, 17, 33),
        examples=EXAMPLES,
        share=0.04,
        draws=0.25,
        shards=SHARDS[:4],
    )
