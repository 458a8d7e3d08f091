"""The activation of another model, compiled in, is named."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as f

from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.case import parse_case
from mxmoe.conformance.cases.designed import make_case_data
from mxmoe.conformance.faults.plain import PLAIN
from mxmoe.conformance.faults.plain import subject_of
from mxmoe.conformance.faults.plain import swiglu
from mxmoe.reference.types import SILU
from mxmoe.reference.types import SWIGLU_OAI
from mxmoe.reference.types import Activation

Tensor = torch.Tensor
pytestmark = pytest.mark.usefixtures("one_thread")
OAI, PLAIN_SILU = (
    parse_case(f"e4k2h64i96{form}/tp1r0/t17/s0") for form in ("", "-silu")
)


def of(curve: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Activation], Tensor]:
    return lambda z, a: curve(z[..., 0::2]) * z[..., 1::2]


def fixed(a: Activation) -> Callable[[Tensor, Activation], Tensor]:
    return lambda z, declared: swiglu(z, a)


FAULTS: dict[str, tuple[Case, Callable[[Tensor, Activation], Tensor]]] = {
    "swiglu with gpt-oss's alpha, limit and +1, as of another layer": (
        PLAIN_SILU,
        fixed(SWIGLU_OAI),
    ),
    "plain silu(gate) * up": (OAI, fixed(SILU)),
    "beta 1 and limit 7 of swiglu_oai in activation silu": (
        PLAIN_SILU,
        fixed(replace(SWIGLU_OAI, alpha=1.0)),
    ),
    "limit 7 of swiglu_oai in activation silu": (
        PLAIN_SILU,
        fixed(replace(SILU, limit=7.0)),
    ),
    "beta 0 and limit inf of silu in activation swiglu_oai": (
        OAI,
        fixed(replace(SWIGLU_OAI, beta=0.0, limit=math.inf)),
    ),
    "alpha and limit of the activation exchanged": (
        OAI,
        fixed(replace(SWIGLU_OAI, alpha=SWIGLU_OAI.limit, limit=SWIGLU_OAI.alpha)),
    ),
    "alpha, beta, limit of the activation taken from beta, limit, alpha": (
        OAI,
        fixed(Activation("other", SWIGLU_OAI.beta, SWIGLU_OAI.limit, SWIGLU_OAI.alpha)),
    ),
    "relu(gate) * up in place of swiglu_oai": (OAI, of(torch.relu)),
    "gelu(gate) * up in place of swiglu_oai": (OAI, of(f.gelu)),
}


@pytest.mark.parametrize("words", FAULTS)
def test_a_known_activation_in_the_place_of_the_declared_one_is_named(
    why: Callable[[Case, Tensor], str], words: str
) -> None:
    case, activate = FAULTS[words]
    data = make_case_data(case)
    subject = subject_of(replace(PLAIN, activate=activate))
    prepared = subject.prepare(data.weights, data.config, case.shard)
    out = subject.forward(prepared, data.hidden_states, data.routing)
    assert why(case, out).startswith(f"why    behaves as if: {words}")
