"""A down bias that ranks share wrongly is named by their numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.case import parse_case
from mxmoe.conformance.cases.designed import make_case_data
from mxmoe.conformance.faults.plain import PLAIN
from mxmoe.conformance.faults.plain import subject_of
from mxmoe.conformance.why_numbers.bias_shares import bias_shares
from mxmoe.reference.types import WHOLE
from mxmoe.reference.types import Shard

Tensor = torch.Tensor
pytestmark = pytest.mark.usefixtures("one_thread")
OF_EP = parse_case("e8k2h64i128/tp1r0-ep4r1/t17/s0")
OF_BOTH = parse_case("e8k2h64i128/tp4r0-ep2r0/t17/s0")
EQUAL = parse_case("e8k2h64i128/tp2r1-ep2r0/t17/s0")
LAST = parse_case("e8k2h64i128/tp4r3/t17/s0")

SHARES: dict[str, tuple[Case, Callable[[Shard], float]]] = {
    "down bias times 1/4: divided by ep = 4": (OF_EP, lambda s: 1 / s.ep_size),
    "down bias times 1/2: divided by tp * ep = 8, not by 4": (
        OF_BOTH,
        lambda s: 1 / (s.tp_size * s.ep_size),
    ),
    "down bias times 2: divided by ep = 2, not by tp = 4": (
        OF_BOTH,
        lambda s: 1 / s.ep_size,
    ),
    "down bias times 4: not divided by tp = 4, or added on one rank of tp only, this "
    "one": (OF_BOTH, lambda s: 1.0),
    "down bias times 1/2: divided by tp = 2 twice, or divided by tp * ep = 4, not by "
    "2": (EQUAL, lambda s: 1 / s.tp_size**2),
    "down bias ignored, or added on another rank of tp only": (LAST, lambda s: 0.0),
}


@pytest.mark.parametrize("words", SHARES)
def test_a_share_of_the_down_bias_is_named_with_every_reason(
    why: Callable[[Case, Tensor], str], words: str
) -> None:
    case, share = SHARES[words]
    sharing = replace(PLAIN, add_down_bias=lambda y, b, s: y + share(s) * b)
    data, subject = make_case_data(case), subject_of(sharing)
    prepared = subject.prepare(data.weights, data.config, case.shard)
    out = subject.forward(prepared, data.hidden_states, data.routing)
    assert why(case, out) == f"why    behaves as if: {words}"


def test_one_rank_shares_nothing() -> None:
    assert bias_shares(WHOLE) == {}
    factors = bias_shares(Shard(tp_size=3, tp_rank=1)).values()
    assert set(factors) == {Fraction(3), Fraction(1, 3)}
