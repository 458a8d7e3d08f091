"""What the suite says of one wrong output of a case."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from mxmoe.conformance.bounds.compare_numbers import compare_numbers
from mxmoe.conformance.bounds.propagated import Judged
from mxmoe.conformance.bounds.propagated import judge_rank
from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.designed import make_case_data
from mxmoe.conformance.why_numbers.why_lines import why_lines
from mxmoe.reference.types import ARITHMETIC

_CLASS = ARITHMETIC["w4a16_fp32acc"]

# Variants of one test that all run by day; of more, every third does. A cause is
# looked for in a second, and there are hundreds of them.
_FEW = 3


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Two thirds of the variants of a test in this folder are for the night."""
    here, variants = Path(__file__).parent, defaultdict[str, list[pytest.Item]](list)
    for item in items:
        if item.path.parent == here and item.get_closest_marker("nightly") is None:
            variants[item.nodeid.partition("[")[0]].append(item)
    for several in variants.values():
        for number, item in enumerate(several if len(several) > _FEW else ()):
            if number % 3:
                item.add_marker(pytest.mark.nightly)


@cache
def _judged(case: Case) -> Judged:
    data = make_case_data(case)
    return judge_rank(
        data.weights,
        data.config,
        data.hidden_states,
        data.routing,
        shard=case.shard,
        arithmetic=_CLASS,
    )


@pytest.fixture(scope="session")
def judged() -> Callable[[Case], Judged]:
    """Truth and allowed deviation of a case under bfloat16 weights and fp32 sums."""
    return _judged


@pytest.fixture(scope="session")
def why() -> Callable[[Case, torch.Tensor], str]:
    """The one line about the cause of a wrong output [t, h] of a case."""

    def line_of(case: Case, out: torch.Tensor) -> str:
        judged, data = _judged(case), make_case_data(case)
        worst = compare_numbers(
            out, judged.truth["combine"], judged.allowed["combine"]
        ).worst
        assert worst > 1, "the edit does not show"
        [line] = why_lines(case, data, judged, out, _CLASS, worst)
        return line

    return line_of
