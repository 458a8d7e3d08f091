"""What lies behind the end of K and is read and multiplied is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch

from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.case import parse_case
from mxmoe.conformance.cases.designed import make_case_data
from mxmoe.conformance.faults.plain import Plain
from mxmoe.conformance.faults.plain import subject_of

Tensor = torch.Tensor
Why = Callable[[Case, Tensor], str]
# Neither hidden nor intermediate is a multiple of 64.
CASE = parse_case("e4k2h96i160/tp1r0/t17/s0")
DATA = make_case_data(CASE)
H = DATA.config.hidden


def behind(x: Tensor, over: int, n: int = 1) -> Tensor:
    """The first columns of the row `n` further on; 0 behind the last one."""
    return torch.cat((x[n:, :over], torch.zeros_like(x[:n, :over])))


@dataclass(frozen=True, kw_only=True)
class Reading(Plain):
    """One GEMM reads the columns up to a multiple of `unit`.

    x, w : what lies there for rows [n, k] and weights [m, k], as many columns.
    """

    hidden: int = H
    unit: int = 64
    x: Callable[[Tensor, int], Tensor] = behind
    w: Callable[[Tensor, int], Tensor] = behind

    def product_of(self, x: Tensor, w: Tensor) -> Tensor:
        over = -x.shape[1] % self.unit
        found = x @ w.T
        if x.shape[1] == self.hidden and over:
            found = found + self.x(x, over) @ self.w(w, over).T
        return found


def own(x: Tensor, over: int) -> Tensor:
    """The row again, as of an index modulo K."""
    return x[:, :over]


def around(x: Tensor, over: int) -> Tensor:
    return x.roll(-1, 0)[:, :over]


def masked(x: Tensor, over: int) -> Tensor:
    return torch.zeros_like(x[:, :over])


GEMM1 = "GEMM1 reads 32 columns behind K, up to a multiple of 64 or 128: those of"
GEMM2 = "GEMM2 reads 32 columns behind K, up to a multiple of 64: those of"
FAR = "GEMM2 reads 96 columns behind K, up to a multiple of 128 or 256: those of"
FAULTS: dict[str, Reading] = {
    f"{GEMM1} the next row of its expert and of the next weight row": Reading(),
    f"{GEMM1} its own row again and of the next weight row": Reading(x=own),
    f"{GEMM1} the next row of its expert and of its own weight row again": Reading(
        w=own
    ),
    f"{GEMM2} the next row of its expert and of the next weight row": Reading(
        hidden=160
    ),
    f"{GEMM2} its own row again and of the next weight row": Reading(
        hidden=160, x=own, w=around
    ),
    f"{FAR} the next row of its expert and of the next weight row": Reading(
        hidden=160, unit=128
    ),
}


def output(candidate: Reading, case: Case = CASE) -> Tensor:
    data = make_case_data(case)
    layer = Plain(product=candidate.product_of)
    subject = subject_of(layer)
    prepared = subject.prepare(data.weights, data.config, case.shard)
    return subject.forward(prepared, data.hidden_states, data.routing)


@pytest.mark.parametrize("words", FAULTS)
def test_columns_behind_the_end_of_k_are_named(why: Why, words: str) -> None:
    line = why(CASE, output(FAULTS[words]))
    assert line == f"why    behaves as if: {words}"


def test_columns_of_the_next_token_in_memory_are_named(why: Why) -> None:
    rows = DATA.hidden_states.float()

    def next_token(x: Tensor, over: int) -> Tensor:
        at = torch.cdist(x, rows).argmin(dim=1)
        return behind(rows, over)[at]

    line = why(CASE, output(Reading(x=next_token)))
    assert line == (
        f"why    behaves as if: {GEMM1} the next token and of the next weight row"
    )


def test_a_k_shorter_than_what_is_read_behind_it_reaches_further_rows(
    why: Why,
) -> None:
    case = parse_case("e2k1h32i96/tp1r0/t17/s0")

    def three(x: Tensor, over: int) -> Tensor:
        return torch.cat([behind(x, 32, n) for n in (1, 2, 3)], dim=1)

    line = why(case, output(Reading(hidden=32, unit=128, x=three, w=three), case))
    assert "GEMM1 reads 96 columns behind K, up to a multiple of 128: those" in line


@pytest.mark.parametrize("masking", ["x", "w"])
def test_an_end_of_k_that_one_operand_masks_is_right(masking: str) -> None:
    candidate = Reading(**{masking: masked})
    assert torch.equal(output(candidate), output(Reading(x=masked, w=masked)))
