"""Faults beside `forward`: routing inside the op, traces (L3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from mxmoe.conformance.faults.fault import faults_of
from mxmoe.conformance.faults.plain import PLAIN
from mxmoe.conformance.faults.plain import Tensor
from mxmoe.conformance.faults.plain import changed
from mxmoe.conformance.faults.plain import route
from mxmoe.conformance.faults.plain import spoiled
from mxmoe.reference.types import Routing

_fused = faults_of("L3", "test_fused_routing_stays_within_the_bound")
_trace = faults_of("L3", "test_traced_stages_stay_within_the_bound")

Stages = dict[str, Tensor]


def _fusing(routing: Callable[[Tensor, int], Any]) -> object:
    return changed(PLAIN, forward_fused=replace(PLAIN, route=routing).forward_fused)


@_fused("vllm-project/vllm#43223", "softmax over all experts, not only the chosen")
def fused_softmax_over_all() -> object:
    """The fused op does not renormalise."""

    def routing(logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        ids, _ = route(logits, top_k)
        return ids, logits.softmax(dim=1).gather(1, ids.long())

    return _fusing(routing)


@_fused("", "last slot dropped")
def fused_top_k_one_short() -> object:
    """The fused op counts the last of several slots for nothing."""

    def routing(logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        ids, weights = route(logits, top_k)
        weights[:, max(1, top_k - 1) :] = 0
        return ids, weights

    return _fusing(routing)


@_fused("", "router bias ignored")
def fused_router_bias_ignored(candidate: Any) -> object:
    """The fused op adds no router bias."""

    def forward_fused(p: Any, x: Tensor, w: Tensor, b: object, k: int) -> Tensor:
        return candidate.forward_fused(p, x, w, None, k)

    return spoiled(candidate, forward_fused=forward_fused)


@_fused("", "router bias used for the choice, and not for the weights")
def fused_router_bias_for_the_choice_only() -> object:
    """The fused op chooses with the router bias, and weighs without it."""

    def forward_fused(p: Any, x: Tensor, w: Tensor, b: Any, k: int) -> Tensor:
        logits = x.float() @ w.float().T
        ids, _ = route(logits if b is None else logits + b.float(), k)
        weights = logits.gather(1, ids.long()).softmax(dim=1)
        return PLAIN.forward(p, x, Routing(ids, weights))

    return changed(PLAIN, forward_fused=forward_fused)


@_fused("vllm-project/vllm#40794", "hidden states read as if no gaps lay between rows")
def fused_packed_rows_assumed(candidate: Any) -> object:
    """The fused op takes row t of the hidden states to start at t * h."""

    def forward_fused(p: Any, x: Tensor, w: Tensor, b: Any, k: int) -> Tensor:
        packed = x.as_strided(x.shape, (x.shape[1], 1))
        return candidate.forward_fused(p, packed.nan_to_num(), w, b, k)

    return spoiled(candidate, forward_fused=forward_fused)


def _tracing(candidate: Any, edit: Callable[[Stages], object]) -> object:
    return spoiled(candidate, trace=lambda p, x, r: edit(candidate.trace(p, x, r)))


@_trace("", "trace gate_up", "gate_up columns de-interleaved, even ones first")
def trace_gates_then_ups(candidate: Any) -> object:
    """Columns of gate_up come de-interleaved."""

    def edit(s: Stages) -> Stages:
        halves = s["gate_up"][..., 0::2], s["gate_up"][..., 1::2]
        return s | {"gate_up": torch.cat(halves, dim=-1)}

    return _tracing(candidate, edit)


@_trace("", "trace activation", "activation slots in reverse order")
def trace_slots_reversed(candidate: Any) -> object:
    """Rows of the activation come in reverse slot order."""
    return _tracing(candidate, lambda s: s | {"activation": s["activation"].flip(1)})


@_trace("", "trace down", "down multiplied by the routing weight")
def trace_down_weighted(candidate: Any) -> object:
    """down is taken after the routing weight."""

    def trace(p: Any, x: Tensor, r: Routing) -> Stages:
        stages = candidate.trace(p, x, r)
        weights = r.weights[..., None].to(stages["down"])
        return {**stages, "down": stages["down"] * weights}

    return spoiled(candidate, trace=trace)


@_trace("", "trace down", "expected [")
def trace_in_another_shape(candidate: Any) -> object:
    """down is already summed over the slots."""
    return _tracing(
        candidate, lambda s: s | {"down": s["down"].sum(dim=1, keepdim=True)[:, :0]}
    )


@_trace("", "expected a mapping")
def trace_returns_nothing(candidate: Any) -> object:
    """The stages are written elsewhere."""
    return _tracing(candidate, lambda s: None)


@_trace("", "expected stages from gate_up, activation, down, combine, found gate-up")
def trace_of_unknown_stages(candidate: Any) -> object:
    """The only stage exposed has a name of its own."""
    return _tracing(candidate, lambda s: {"gate-up": s["gate_up"]})
