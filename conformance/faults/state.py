"""Faults of state: what a call leaves behind, keeps, or touches (L3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from mxmoe.conformance.faults.fault import faults_of
from mxmoe.conformance.faults.plain import CLAIMS
from mxmoe.conformance.faults.plain import PLAIN
from mxmoe.conformance.faults.plain import Tensor
from mxmoe.conformance.faults.plain import changed
from mxmoe.conformance.faults.plain import claiming
from mxmoe.conformance.faults.plain import spoiled
from mxmoe.conformance.verdict import Verdict
from mxmoe.reference.types import Routing

_layers = faults_of("L3", "test_layer_output_stays_within_the_bound")
_again = faults_of("L3", "test_a_second_call_repeats_the_first")
_zero = faults_of("L3", "test_zero_tokens_give_an_empty_output")
_input = faults_of("L3", "test_the_input_is_not_modified")
_poison = faults_of("L3", "test_poisoned_memory_changes_nothing")
_nobody = faults_of("L2", "test_minus_one_contributes_nothing")
_freed = faults_of("L3", "test_raw_weights_are_freed")

Forward = Callable[[Any, Tensor, Routing], Tensor]


def calling(candidate: object, forward: Forward, **members: object) -> object:
    """`candidate` with another `forward`."""

    def with_tactic(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
        return forward(p, x, r)

    return changed(spoiled(candidate, forward=with_tactic), **members)


@_layers(
    "vllm-project/vllm#48312",
    "not followed: gate_up weights, gate_up bias, down weights",
    "kept from an earlier call",
    "your kernel is right, your bytes are wrong",
)
def weights_of_another_layer(candidate: Any) -> object:
    """Prepared weights are kept by shape: the second layer gets those of the first."""
    cache: dict[object, object] = {}

    def prepare(w: Any, config: Any, shard: Any, device: Any) -> object:
        return cache.setdefault(config, candidate.prepare(w, config, shard, device))

    return spoiled(candidate, prepare=prepare)


@_again("vllm-project/vllm#52383", "hidden states of the first call")
def stale_on_second_call(candidate: Any) -> object:
    """Later calls on the same weights read the first rows again."""
    first: dict[int, Tensor] = {}

    def forward(p: Any, x: Tensor, r: Routing) -> Tensor:
        kept = first.setdefault(id(p), x.clone())
        n = min(len(kept), len(x))
        return candidate.forward(p, torch.cat((kept[:n], x[n:])), r)

    return calling(candidate, forward)


@_again("ROCm/aiter#3632", "changed during the second", "results lie in one buffer")
def output_buffer_reused(candidate: Any) -> object:
    """Results of one shape of weights share a buffer that grows."""
    buffers: dict[int, Tensor] = {}

    def forward(p: Any, x: Tensor, r: Routing) -> Tensor:
        out = candidate.forward(p, x, r)
        if id(p) not in buffers:
            buffers[id(p)] = torch.empty(4096, out.shape[1], dtype=out.dtype)
        buffers[id(p)][: len(out)] = out
        return buffers[id(p)][: len(out)]

    return calling(candidate, forward)


@_again("", "changed during the third", "results lie in one buffer")
def output_buffer_of_a_size(candidate: Any) -> object:
    """Each number of tokens has one buffer, in which every result of it lies."""
    buffers: dict[torch.Size, Tensor] = {}

    def forward(p: Any, x: Tensor, r: Routing) -> Tensor:
        out = candidate.forward(p, x, r)
        return buffers.setdefault(out.shape, torch.empty_like(out)).copy_(out)

    return calling(candidate, forward)


@_again("deepseek-ai/DeepGEMM#451", "third call", "added to the output of the first")
def accumulates_into_its_output(candidate: Any) -> object:
    """The workspace is not cleared: results of earlier calls are added."""
    sums: dict[tuple[int, int], Tensor] = {}

    def forward(p: Any, x: Tensor, r: Routing) -> Tensor:
        out = candidate.forward(p, x, r)
        key = (id(p), len(x))
        sums[key] = out + sums.get(key, 0)
        return sums[key].clone()

    return calling(candidate, forward)


@_again("vllm-project/vllm#50523", "second call", "down scales twice as large")
def weights_drift() -> object:
    """Each call scales the prepared down bias in place."""

    def forward(p: Any, x: Tensor, r: Routing) -> Tensor:
        out = PLAIN.forward(p, x, r)
        p["down_scales"].add_(1)
        return out

    return calling(PLAIN, forward)


@_again("", "second call, same input", "weights of the layer that was prepared last")
def next_layer_takes_the_place() -> object:
    """`forward` uses the weights that were prepared last, whatever it is given."""
    last: list[dict[str, Tensor]] = []

    def prepare(w: Any, config: Any, shard: Any, device: Any) -> dict[str, object]:
        last[:] = [PLAIN.prepare(w, config, shard, device)]
        return {"handle": None}

    def forward(p: Any, x: Tensor, r: Routing) -> Tensor:
        return PLAIN.forward(replace(p, tensors=last[0]), x, r)

    own = claiming(PLAIN, layout=None)
    return calling(own, forward, prepare=prepare, trace=None, forward_fused=None)


@_zero("sgl-project/sglang#38773", "forward raised", verdict=Verdict.CRASH)
def zero_tokens_raise(candidate: Any) -> object:
    """An empty batch is an error."""

    def forward(p: Any, x: Tensor, r: Routing) -> Tensor:
        if not len(x):
            raise ValueError("empty grid")
        return candidate.forward(p, x, r)

    return calling(candidate, forward)


@_zero("sgl-project/sglang#38780", "forward returned", "expected")
def zero_tokens_give_one_row(candidate: Any) -> object:
    """An empty batch is padded to one row."""

    def forward(p: Any, x: Tensor, r: Routing) -> Tensor:
        return candidate.forward(p, x, r) if len(x) else x.new_zeros(1, x.shape[1])

    return calling(candidate, forward)


@_input("", "forward changed the caller's hidden_states")
def input_modified(candidate: Any) -> object:
    """The result is written over the hidden states."""

    def forward(p: Any, x: Tensor, r: Routing) -> Tensor:
        return x.copy_(candidate.forward(p, x, r)).clone()

    return calling(candidate, forward)


@_input("", "forward changed the caller's routing.weights")
def routing_modified(candidate: Any) -> object:
    """Weights of empty slots are cleared in the caller's tensor."""

    def forward(p: Any, x: Tensor, r: Routing) -> Tensor:
        r.weights.masked_fill_(r.ids < 0, 0)
        return candidate.forward(p, x, r)

    return calling(candidate, forward)


@_input("", "forward changed the caller's routing.ids")
def ids_localised_in_place(candidate: Any) -> object:
    """Global ids become local ones in the caller's tensor."""

    def forward(p: Any, x: Tensor, r: Routing) -> Tensor:
        out = candidate.forward(p, x, r)
        r.ids.sub_(p.shard.expert_range(p.config).start)
        return out

    return calling(candidate, forward)


@_input("vllm-project/vllm#50523", "forward changed the caller's down_scales")
def prepared_modified() -> object:
    """The prepared scales change in the first call."""

    def forward(p: Any, x: Tensor, r: Routing) -> Tensor:
        out = PLAIN.forward(p, x, r)
        p["down_scales"].add_(1)
        return out

    return calling(PLAIN, forward)


@_poison(
    "ROCm/aiter#575",
    "tokens that no expert of this rank serves",
    verdict=Verdict.NONFINITE,
)
def unowned_rows_uninit(candidate: Any) -> object:
    """Rows without an expert on this rank keep what memory held."""

    def forward(p: Any, x: Tensor, r: Routing) -> Tensor:
        owned = p.shard.expert_range(p.config)
        served = ((r.ids >= owned.start) & (r.ids < owned.stop)).any(dim=1)
        out = torch.empty_like(x)
        out[served] = candidate.forward(p, x, r)[served]
        return out

    return calling(candidate, forward)


@_poison("guqiong96/Lvllm#110", "depend on what memory held before prepare")
def pad_garbage_weights() -> object:
    """Padding of a prepared tensor is not written."""

    def prepare(w: Any, config: Any, shard: Any, device: Any) -> dict[str, Tensor]:
        tensors = PLAIN.prepare(w, config, shard, device)
        e, rows, *rest = tensors["gate_up_scales"].shape
        padded = torch.empty(e, rows + 8, *rest, dtype=torch.uint8)
        padded[:, :rows] = tensors["gate_up_scales"]
        return tensors | {"padded_scales": padded}

    return changed(PLAIN, prepare=prepare, capabilities={**CLAIMS, "layout": None})


@_poison(
    "triton-lang/triton#10772",
    "memory is read that forward has",
    verdict=Verdict.NONFINITE,
)
def k_tail_unmasked(candidate: Any) -> object:
    """A padded copy of the hidden states is read past its end: NaN times 0 is NaN."""

    def forward(p: Any, x: Tensor, r: Routing) -> Tensor:
        padded = x.new_empty(len(x), x.shape[1] + 8)
        padded[:, : x.shape[1]] = x
        rest = padded[:, x.shape[1] :].isnan().any(dim=1, keepdim=True)
        return candidate.forward(p, x, r).masked_fill(rest, torch.nan)

    return calling(candidate, forward)


@_nobody("", "(-1) add what the former call left in row n (n = token * top_k + slot)")
def slot_buffer_not_cleared() -> object:
    """Results of as many slots lie in one buffer, where empty slots find older ones."""
    buffers: dict[torch.Size, Tensor] = {}

    def forward(p: Any, x: Tensor, r: Routing) -> Tensor:
        down, owned = PLAIN.trace(p, x, r)["down"], p.shard.expert_range(p.config)
        served = (r.ids >= owned.start) & (r.ids < owned.stop)
        kept = buffers.setdefault(down.shape, torch.zeros_like(down))
        kept[served] = down[served]
        weights = r.weights.where(served | (r.ids < 0), 0)
        return PLAIN.mix(weights, kept).to(x.dtype)

    return calling(PLAIN, forward, trace=None)


@_freed("", "gate_up_blocks", "are still held")
def keeps_raw_weights(candidate: Any) -> object:
    """A list of everything that was ever loaded."""
    kept: list[object] = []

    def prepare(w: Any, config: Any, shard: Any, device: Any) -> dict[str, Tensor]:
        kept.append(w)
        return candidate.prepare(w, config, shard, device)

    return spoiled(candidate, prepare=prepare)


@_freed("", "down_scales", "are still held")
def keeps_a_view(candidate: Any) -> object:
    """One row of the scales keeps the whole tensor alive."""
    kept: list[Tensor] = []

    def prepare(w: Any, config: Any, shard: Any, device: Any) -> dict[str, Tensor]:
        kept[:] = [w.down_scales[0, :1]]
        return candidate.prepare(w, config, shard, device)

    return spoiled(candidate, prepare=prepare)
