"""Faults that no element shows: gains, noise, and broken laws (L3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from mxmoe.conformance.planted import PLAIN
from mxmoe.conformance.planted import Tensor
from mxmoe.conformance.planted import changed
from mxmoe.conformance.planted import faults_of
from mxmoe.conformance.planted import mix
from mxmoe.reference.types import Routing

_structure = faults_of("L3", "test_errors_within_the_bound_are_unsystematic")


def _routing(edit: Callable[[Routing], Tensor]) -> object:
    def forward(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
        return PLAIN.forward(p, x, Routing(r.ids, edit(r)))

    return changed(PLAIN, forward=forward)


@_structure("", "gain along the output", "0.2 % too large")
def routing_weights_a_fifth_of_a_percent_off() -> object:
    """Every routing weight is 0.2 % too large."""
    return _routing(lambda r: r.weights * 1.002)


@_structure("", "gain along expert 1's contribution", "it is the whole of it")
def one_expert_a_fifth_of_a_percent_off() -> object:
    """The routing weight of expert 1 is 0.2 % too small."""
    return _routing(lambda r: torch.where(r.ids == 1, 0.998 * r.weights, r.weights))


@_structure("", "gain along the output", "% too small", "it is the whole of it")
def output_a_tenth_of_a_percent_off() -> object:
    """The sum of the slots is 0.1 % too small."""
    return replace(PLAIN, mix=lambda weights, down: 0.999 * mix(weights, down))


@_structure("", "gain along the gate_up bias", "the gate_up bias is scaled")
def gate_up_bias_a_fifth_of_a_percent_off() -> object:
    """The gate_up bias is 0.2 % too large."""
    return replace(PLAIN, add_gate_up_bias=lambda z, b: z + 1.002 * b)


@_structure("", "gain along the down bias", "the down bias is scaled")
def down_bias_a_fifth_of_a_percent_off() -> object:
    """The down bias is 0.2 % too small."""
    return replace(PLAIN, add_down_bias=lambda y, b, s: y + 0.998 * b / s.tp_size)


@_structure("", "gain along the input", "before the bias")
def first_gemm_a_fifth_of_a_percent_off() -> object:
    """The first GEMM is 0.2 % too large, before its bias."""
    return replace(PLAIN, add_gate_up_bias=lambda z, b: 1.002 * z + b)


@_structure("", "token 5: errors are", "times their expected size")
def noise_on_one_token() -> object:
    """Every other small element of token 5 has its last bit wrong."""

    def forward(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
        out = PLAIN.forward(p, x, r)
        if len(out) > 5 and out.dtype == torch.bfloat16:
            small = out[5].abs() < out[5].abs().median()
            wrong = (small & (torch.arange(out.shape[1]) % 2 == 0)).short()
            out[5] = (out[5].view(torch.int16) ^ wrong).view(torch.bfloat16)
        return out

    return changed(PLAIN, forward=forward)
