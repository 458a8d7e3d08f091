"""Correct variants: every honest way of computing that a check must let pass."""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch

from mxmoe.conformance.faults.plain import CLAIMS
from mxmoe.conformance.faults.plain import FLOAT32
from mxmoe.conformance.faults.plain import PLAIN
from mxmoe.conformance.faults.plain import Plain
from mxmoe.conformance.faults.plain import Tensor
from mxmoe.conformance.faults.plain import changed
from mxmoe.conformance.faults.plain import claiming
from mxmoe.conformance.faults.plain import dequantize
from mxmoe.conformance.faults.plain import product
from mxmoe.conformance.faults.plain import route
from mxmoe.reference.sharding import shard_weights
from mxmoe.reference.types import Activation
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import PreparedWeights
from mxmoe.reference.types import Routing
from mxmoe.reference.types import Trace


def k_reversed(x: Tensor, w: Tensor) -> Tensor:
    """The last column first."""
    return product(x.flip(1), w.flip(1))


def split_k(chunk: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Partial sums over `chunk` columns, then their sum."""

    def split(x: Tensor, w: Tensor) -> Tensor:
        parts = zip(x.split(chunk, dim=1), w.split(chunk, dim=1), strict=True)
        return torch.stack([product(a, b) for a, b in parts] or [product(x, w)]).sum(0)

    return split


def truncating(x: Tensor, w: Tensor) -> Tensor:
    """A matrix unit: 16 exact products a step, then the running sum is cut off."""
    total = torch.zeros(x.shape[0], w.shape[0])
    for a, b in zip(x.double().split(16, 1), w.double().split(16, 1), strict=True):
        total = _toward_zero(total.double() + a @ b.T)
    return total


def _toward_zero(exact: Tensor) -> Tensor:
    near = exact.float()
    beyond = near.double().abs() > exact.abs()
    return torch.where(beyond, near.nextafter(torch.zeros_like(near)), near)


def fast_exp(error: int) -> Callable[[Tensor, Activation], Tensor]:
    """exp2 of a rounded argument, and wrong by `error` units in the last place."""

    def swiglu(gate_up: Tensor, activation: Activation) -> Tensor:
        gate, up = gate_up.unflatten(-1, (-1, 2)).unbind(-1)
        gate = gate.clamp(max=activation.limit)
        up = up.clamp(-activation.limit, activation.limit)
        power = torch.exp2(gate * (-activation.alpha * math.log2(math.e)))
        power = power * (1 + error * 2.0**-23)
        return gate * (1 / (1 + power)) * (up + activation.beta)

    return swiglu


def by_tanh(gate_up: Tensor, activation: Activation) -> Tensor:
    """The sigmoid as (1 + tanh) / 2."""
    gate, up = gate_up.unflatten(-1, (-1, 2)).unbind(-1)
    gate = gate.clamp(max=activation.limit)
    up = up.clamp(-activation.limit, activation.limit)
    sigmoid = (1 + torch.tanh(gate * (activation.alpha / 2))) * 0.5
    return gate * sigmoid * (up + activation.beta)


def any_order(weights: Tensor, down: Tensor) -> Tensor:
    """Atomic additions: the slots arrive in another order each time."""
    order = torch.randperm(weights.shape[1])
    total = torch.zeros(down.shape[0], down.shape[2], dtype=down.dtype)
    for slot in order:
        total = total + weights[:, slot, None] * down[:, slot]
    return total


def topk_route(logits: Tensor, top_k: int) -> Routing:
    """torch.topk promises no order of ties; ids are int64; an object comes back."""
    values, ids = torch.topk(logits.float(), top_k, dim=1)
    return Routing(ids, values.softmax(dim=1))


def renormalised_route(logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Softmax over all experts, chosen, renormalised: the same in exact arithmetic."""
    ids = logits.float().sort(dim=1, descending=True, stable=True).indices[:, :top_k]
    every = logits.float().softmax(dim=1).gather(1, ids)
    return ids.int(), every / every.sum(dim=1, keepdim=True)


def shifted_bits(blocks: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """float32 bits as ``byte << 23``: 0x00 gives 0 and 0xFF gives Inf; a note."""
    power = (scales.int() << 23).view(torch.float32)
    ones = dequantize(blocks, torch.full_like(scales, 127), torch.float32)
    return (ones.unflatten(-1, (-1, 32)) * power[..., None]).flatten(-2).to(dtype)


def flushing(x: Tensor, w: Tensor) -> Tensor:
    """Subnormals are zero, as on many GPUs."""
    supported = torch.set_flush_denormal(True)
    found = product(x, w)
    torch.set_flush_denormal(False)
    return found if supported else torch.where(found.abs() < 2.0**-126, 0, found)


class TokenByToken:
    """One token at a time: a token's bits cannot depend on its neighbours."""

    name = "token_by_token"
    capabilities: Mapping[str, object] = MappingProxyType(
        {**CLAIMS, "deterministic": True, "batch_invariant": True}
    )
    prepare = staticmethod(PLAIN.prepare)

    def forward(
        self,
        prepared: PreparedWeights,
        hidden_states: Tensor,
        routing: Routing,
        *,
        tactic: object = None,
    ) -> Tensor:
        """A loop over tokens."""
        out = torch.empty_like(hidden_states)
        for t in range(len(hidden_states)):
            one = Routing(routing.ids[t : t + 1], routing.weights[t : t + 1])
            out[t] = PLAIN.forward(prepared, hidden_states[t : t + 1], one)[0]
        return out


@dataclass(frozen=True)
class Claims:
    """Capabilities given as an object."""

    layout: str = "checkpoint.v1"
    arithmetic: str = "w4a16_fp32acc"


def _chunks(_config: MoEConfig, t: int) -> list[int]:
    return [32, 64] if t < 16 else [96, 1024]


def _split_by_tactic(
    p: PreparedWeights, x: Tensor, routing: Routing, *, tactic: Any = None
) -> Tensor:
    return replace(PLAIN, product=split_k(tactic or 32)).forward(p, x, routing)


def ascending_route(logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Slots in the order of expert ids; weights stored in bfloat16."""
    ids, weights = route(logits, top_k)
    ids, order = ids.sort(dim=1)
    return ids, weights.gather(1, order).bfloat16()


def _by_bfloat16_logits(p: Any, x: Tensor, w: Tensor, b: Any, k: int) -> Tensor:
    """The router's result in the dtype of the activations, as its product gives it."""
    logits = x.float() @ w.float().T
    logits = logits if b is None else logits + b.float()
    return PLAIN.forward(p, x, Routing(*route(logits.bfloat16().float(), k)))


def _returning(edit: Callable[[Tensor], Tensor]) -> object:
    def forward(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
        return edit(PLAIN.forward(p, x, r))

    return changed(PLAIN, forward=forward)


def _preparing(edit: Callable[[str, Tensor], object], **claims: object) -> object:
    def prepare(w: Any, config: Any, shard: Any, device: Any) -> dict[str, object]:
        prepared = PLAIN.prepare(w, config, shard, device)
        return {name: edit(name, tensor) for name, tensor in prepared.items()}

    return changed(claiming(PLAIN, **claims), prepare=prepare)


def _parameter(_name: str, tensor: Tensor) -> Tensor:
    return torch.nn.Parameter(tensor, requires_grad=tensor.is_floating_point())


def _opaque() -> object:
    """Prepared weights are one object that is no tensor."""

    def prepare(w: Any, config: Any, shard: Any, device: Any) -> dict[str, object]:
        return {"layer": PLAIN.prepare(w, config, shard, device)}

    def forward(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
        return PLAIN.forward(replace(p, tensors=p["layer"]), x, r)

    own = claiming(PLAIN, layout=None)
    return changed(
        own, prepare=prepare, forward=forward, trace=None, forward_fused=None
    )


def _views(w: Any, config: Any, shard: Any, device: Any) -> object:
    return shard_weights(w, config, shard).tensors()


def _unrounded(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
    return PLAIN.forward(p, x.float(), r)


def _wide_only(config: MoEConfig) -> bool | str:
    return config.hidden % 128 == 0 or "hidden is a multiple of 128"


_BFLOAT16_SLOTS = {**CLAIMS, "arithmetic": "w4a16_fp32acc_bf16slots"}
_EXACT = {"high": torch.float64}

NUMERIC: Mapping[str, Plain] = MappingProxyType(
    {
        "plain": PLAIN,
        "k_reversed": replace(PLAIN, product=k_reversed),
        "split_k": replace(PLAIN, product=split_k(32)),
        "matrix_unit": replace(PLAIN, product=truncating),
        "float64_inside": replace(PLAIN, **_EXACT),
        "float64_unrounded": replace(PLAIN, between=torch.float64, **_EXACT),
        "fast_exp_high": replace(PLAIN, activate=fast_exp(2)),
        "fast_exp_low": replace(PLAIN, activate=fast_exp(-2)),
        "by_tanh": replace(PLAIN, activate=by_tanh),
        "fp32_by_tanh": replace(FLOAT32, activate=by_tanh),
        "flushing": replace(PLAIN, product=flushing),
        "any_order": replace(PLAIN, mix=any_order),
        "bf16_slots": replace(PLAIN, slot=torch.bfloat16, capabilities=_BFLOAT16_SLOTS),
        "fp32": FLOAT32,
        "fp32_split_k": replace(FLOAT32, product=split_k(32)),
        "fp32_fast_exp": replace(FLOAT32, activate=fast_exp(2)),
        "fp32_float64_inside": replace(FLOAT32, **_EXACT),
        "shifted_bits": replace(PLAIN, decode=shifted_bits),
    }
)
"""Other orders, finer or rougher arithmetic: all within their declared class."""

FORMS: Mapping[str, object] = MappingProxyType(
    {
        "forward_only": changed(PLAIN, prepare=None),
        "prepare_only": changed(PLAIN, forward=None, trace=None, forward_fused=None),
        "own_layout": claiming(PLAIN, layout=None),
        "no_claims": changed(claiming(PLAIN, shards="whole"), capabilities=None),
        "claims_object": changed(PLAIN, capabilities=Claims()),
        "routing_object": replace(PLAIN, route=topk_route),
        "renormalised_route": replace(PLAIN, route=renormalised_route),
        "ascending_route": replace(PLAIN, route=ascending_route),
        "bfloat16_logits": changed(PLAIN, forward_fused=_by_bfloat16_logits),
        "token_by_token": TokenByToken(),
        "trace_object": changed(PLAIN, trace=lambda *a: Trace(PLAIN.trace(*a))),
        "float32_output": changed(PLAIN, forward=_unrounded),
        "column_major_output": _returning(lambda out: out.T.contiguous().T),
        "inference_mode": _returning(torch.inference_mode()(torch.clone)),
        "parameters": _preparing(_parameter),
        "views": changed(PLAIN, prepare=_views),
        "opaque_weights": _opaque(),
        "wide_shapes_only": claiming(PLAIN, shapes=_wide_only),
        "tactics": changed(claiming(PLAIN, tactics=_chunks), forward=_split_by_tactic),
    }
)
"""Other shapes of a candidate: what it exposes, claims and returns."""
