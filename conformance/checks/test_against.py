"""`--against OTHER`: two candidates directly, also where a layout is unknown to us."""

from __future__ import annotations

import pytest

from mxmoe.conformance.judging import against as judge_against
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.suite.places import for_each
from mxmoe.conformance.suite.places import layers

pytestmark = pytest.mark.needs_option("against")


@pytest.mark.bytewise
@pytest.mark.level("L1")
@for_each(layers)
def test_prepared_bytes_equal_the_other_candidates(judge: Judge, place: int) -> None:
    """Same names, shapes, dtypes and bytes."""
    judge_against.prepared_bytes(judge, place)


@pytest.mark.numeric
@pytest.mark.level("L3")
def test_output_agrees_with_the_other_candidates(judge: Judge) -> None:
    """Within the sum of both bounds: neither is taken for the truth."""
    judge.subject.need("forward")
    judge_against.other_of(judge).need("forward")
    judge.for_all(judge_against.outputs, tokens=(1, 5, 33))
