"""Faults against what a candidate declares: determinism, batches, tactics (L3)."""

from __future__ import annotations

from typing import Any

import torch

from mxmoe.conformance.faults.fault import faults_of
from mxmoe.conformance.faults.plain import PLAIN
from mxmoe.conformance.faults.plain import Tensor
from mxmoe.conformance.faults.plain import changed
from mxmoe.conformance.faults.plain import claiming
from mxmoe.conformance.faults.state import calling
from mxmoe.conformance.faults.tails import last_k_block_dropped
from mxmoe.reference.types import Routing

_tactic = faults_of("L3", "test_every_tactic_stays_within_the_bound")
_same = faults_of("L3", "test_declared_determinism_holds")
_alone = faults_of("L3", "test_declared_batch_invariance_holds")


@_tactic(
    "tenstorrent/tt-metal#50669",
    "tactic 'wide'",
    "last K block of gate_up and down dropped",
)
def one_tactic_wrong() -> object:
    """One of two tactics leaves out the last K block."""

    def forward(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
        wrong: Any = last_k_block_dropped.plant()
        return (wrong if tactic == "wide" else PLAIN).forward(p, x, r)

    claims = claiming(PLAIN, tactics=lambda config, t: ["narrow", "wide"])
    return changed(claims, forward=forward)


@_tactic("NVIDIA/TensorRT-LLM#13867", "no tactic for")
def tactic_args_swapped() -> object:
    """No tactic fits, because sizes are passed in another order."""
    return claiming(PLAIN, tactics=lambda config, t: [8] * (config.hidden < 64))


@_same("", "repeat ")
def nondeterministic() -> object:
    """Slots are added in another order each time, and determinism is declared."""

    def forward(p: Any, x: Tensor, r: Routing) -> Tensor:
        out = PLAIN.forward(p, x, r)
        noise = 1 + 2.0**-8 * (torch.rand(out.shape) < 0.02)
        return (out * noise).to(out.dtype)

    return calling(claiming(PLAIN, deterministic=True), forward)


@_same("", "repeat ")
def rarely_nondeterministic() -> object:
    """One call in four differs in one element."""
    calls: list[int] = []

    def forward(p: Any, x: Tensor, r: Routing) -> Tensor:
        out = PLAIN.forward(p, x, r)
        calls.append(1)
        if len(calls) % 4 == 0:
            out[-1, -1] = torch.nextafter(out[-1, -1].float(), torch.tensor(9e9))
            out[-1, -1] *= 1 + 2.0**-7
        return out

    return calling(claiming(PLAIN, deterministic=True), forward)


@_alone("", "alone than in a batch of", "every row of batches from 2 tokens on")
def batch_variant() -> object:
    """Another split of K for one token, and batch invariance is declared."""

    def forward(p: Any, x: Tensor, r: Routing) -> Tensor:
        out = PLAIN.forward(p, x, r)
        return out if len(x) > 1 else (out.double() * (1 + 2.0**-8)).to(out.dtype)

    return calling(claiming(PLAIN, batch_invariant=True), forward)


@_alone("", "alone than in a batch of 129", "every row of batches from 65 tokens on")
def batch_variant_beyond_64() -> object:
    """Another kernel from 65 tokens on, and batch invariance is declared."""

    def forward(p: Any, x: Tensor, r: Routing) -> Tensor:
        out = PLAIN.forward(p, x, r)
        return out if len(x) < 65 else (out.double() * (1 + 2.0**-8)).to(out.dtype)

    return calling(claiming(PLAIN, batch_invariant=True), forward)


@_alone("", "alone than in a batch of", "the last row of batches of an odd number")
def last_row_of_a_batch_differs() -> object:
    """The last row of an odd batch is computed on its own, in another order."""

    def forward(p: Any, x: Tensor, r: Routing) -> Tensor:
        out = PLAIN.forward(p, x, r)
        if len(x) > 1 and len(x) % 2:
            out[-1] = (out[-1].double() * (1 + 2.0**-8)).to(out.dtype)
        return out

    return calling(claiming(PLAIN, batch_invariant=True), forward)
