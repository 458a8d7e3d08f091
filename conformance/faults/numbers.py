"""Faults of the biases, the sums and the routing weights (L3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from mxmoe.conformance.faults.fault import faults_of
from mxmoe.conformance.faults.plain import FLOAT32
from mxmoe.conformance.faults.plain import PLAIN
from mxmoe.conformance.faults.plain import Tensor
from mxmoe.conformance.faults.plain import changed
from mxmoe.conformance.faults.plain import claiming
from mxmoe.conformance.faults.plain import product
from mxmoe.conformance.faults.plain import spoiled
from mxmoe.conformance.faults.plain import swiglu
from mxmoe.conformance.faults.prepared_bytes import row_shuffle
from mxmoe.conformance.faults.prepared_bytes import swap_gate_up
from mxmoe.reference.types import Routing

_output = faults_of("L3", "test_output_stays_within_the_bound")
_spot = faults_of("L3", "test_hot_spot_stays_within_the_bound")
_TRT = "NVIDIA/TensorRT-LLM#13867"
_OWN = claiming(PLAIN, layout=None)


@_output(_TRT, "first bad stage: gate_up", "gate_up_bias: row shuffle 32")
def bias_not_shuffled_fc1() -> object:
    """gate_up bias in another row order than the weights, in an own layout."""
    return replace(_OWN, add_gate_up_bias=lambda z, b: z + row_shuffle(b[None])[0])


@_output(_TRT, "first bad stage: down", "down_bias: row shuffle 32")
def bias_not_shuffled_fc2() -> object:
    """down bias in another row order than the weights, in an own layout."""
    return replace(
        _OWN, add_down_bias=lambda y, b, s: y + row_shuffle(b[None])[0] / s.tp_size
    )


@_output(
    "flashinfer-ai/flashinfer#3423",
    "behaves as if: gate_up bias ignored",
    "your bytes are right, your kernel is wrong",
)
def drop_bias_fc1() -> object:
    """The gate_up bias is ignored."""
    return replace(PLAIN, add_gate_up_bias=lambda z, b: z)


@_output("NVIDIA/TensorRT-LLM#3361", "down bias ignored")
def drop_bias_fc2() -> object:
    """The down bias is ignored."""
    return replace(PLAIN, add_down_bias=lambda y, b, s: y)


@_output("vllm-project/vllm#46645", "both biases ignored")
def drop_both_biases() -> object:
    """No bias at all."""
    return replace(drop_bias_fc2.plant(), add_gate_up_bias=lambda z, b: z)


@_output(_TRT, "not divided by tp")
def fc2_bias_not_divided() -> object:
    """The whole down bias on each rank."""
    return replace(PLAIN, add_down_bias=lambda y, b, s: y + b)


@_output("vllm-project/vllm#44893", "gate and up swapped")
def gate_mode_flag_mismatch() -> object:
    """The consumer takes up rows for gate rows."""
    return replace(PLAIN, activate=lambda z, a: swiglu(swap_gate_up(z), a))


@_spot("", "sums of both GEMMs kept in bfloat16, rounded after each 32 of K")
def bf16_accumulation() -> object:
    """The running sum is rounded to bfloat16 after each K block."""

    def rounded(x: Tensor, w: Tensor) -> Tensor:
        total = torch.zeros(x.shape[0], w.shape[0])
        for a, b in zip(x.split(32, 1), w.split(32, 1), strict=True):
            total = (total + product(a, b)).bfloat16().float()
        return total

    return replace(PLAIN, product=rounded)


@_output("", "results of both GEMMs rounded to bfloat16")
def gate_up_in_bfloat16() -> object:
    """Results of both GEMMs are stored in bfloat16; the class does not say so."""
    return replace(PLAIN, product=lambda x, w: product(x, w).bfloat16().float())


@_output("", "each slot's result rounded to bfloat16")
def slots_in_bfloat16() -> object:
    """Each slot is stored in bfloat16, and the class does not say so."""
    return replace(PLAIN, slot=torch.bfloat16)


@_output("", "hidden states rounded to bfloat16")
def input_in_bfloat16() -> object:
    """Hidden states pass through bfloat16 in class fp32."""
    rounded = replace(PLAIN, between=torch.float32)

    def forward(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
        return rounded.forward(p, x.bfloat16().float(), r)

    return changed(FLOAT32, forward=forward)


@_output("", "factors of both GEMMs cut to TF32")
def products_in_tf32() -> object:
    """Factors are cut to 10 bits of mantissa in class fp32."""

    def cut(x: Tensor) -> Tensor:
        return (x.view(torch.int32) & ~0x1FFF).view(torch.float32)

    return replace(FLOAT32, product=lambda x, w: product(cut(x), cut(w)))


@_output("", "intermediate rounded to float8 (E4M3)")
def activations_in_float8() -> object:
    """The intermediate is stored in E4M3, and the class does not say so."""
    return replace(PLAIN, between=torch.float8_e4m3fn)


def _in_float8(x: Tensor, most: Tensor) -> Tensor:
    scale = most.clamp(min=torch.finfo(torch.float32).tiny) / 448
    return (x.float() / scale).to(torch.float8_e4m3fn).float() * scale


@_output("", "factors of both GEMMs quantised to float8 (E4M3), one scale a row")
def both_gemms_in_float8() -> object:
    """What both GEMMs multiply is quantised to E4M3, each row by its largest."""

    def multiplied(x: Tensor, w: Tensor) -> Tensor:
        return product(_in_float8(x, x.abs().amax(dim=1, keepdim=True)), w)

    return replace(PLAIN, product=multiplied)


@_output("", "hidden states quantised to float8 (E4M3), one scale for all tokens")
def hidden_states_in_float8() -> object:
    """The hidden states are quantised to E4M3, by the largest of all tokens."""

    def forward(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
        if not x.numel():
            return PLAIN.forward(p, x, r)
        return PLAIN.forward(p, _in_float8(x, x.abs().amax().float()).to(x.dtype), r)

    return changed(PLAIN, forward=forward)


def _added_in_bfloat16(weights: Tensor, down: Tensor) -> Tensor:
    total = torch.zeros(down.shape[0], down.shape[2]).bfloat16()
    for slot in range(weights.shape[1]):
        total = total + (weights[:, slot, None] * down[:, slot]).bfloat16()
    return total.float()


@_output("", "slots rounded to bfloat16 and added up in it, in the order of slots")
def bfloat16_sum_of_slots() -> object:
    """Slots are added up in bfloat16, and the class does not say so."""
    return replace(PLAIN, mix=_added_in_bfloat16)


@_output("", "slots rounded to bfloat16 and added up in it, in the order of expert ids")
def bfloat16_sum_of_experts() -> object:
    """Each expert adds its rows to an output in bfloat16, one expert after another."""
    adding = replace(PLAIN, mix=_added_in_bfloat16)

    def forward(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
        ids, order = r.ids.sort(dim=1)
        return adding.forward(p, x, Routing(ids, r.weights.gather(1, order)))

    return changed(adding, forward=forward)


@_output("", "each slot's weighted result rounded to bfloat16")
def weighted_slots_in_bfloat16() -> object:
    """Each slot's weighted result is stored in bfloat16, and then added in float32."""

    def mix(weights: Tensor, down: Tensor) -> Tensor:
        return (weights[..., None] * down).bfloat16().float().sum(dim=1)

    return replace(PLAIN, mix=mix)


def _weighing(candidate: Any, edit: Callable[[Tensor], Tensor]) -> object:
    """With edit(routing weights) before `forward`."""

    def forward(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
        return candidate.forward(p, x, Routing(r.ids, edit(r.weights)))

    return spoiled(candidate, forward=forward)


@_output("", "routing weights ignored")
def routing_weights_ignored(candidate: Any) -> object:
    """Every slot counts 1."""
    return _weighing(candidate, torch.ones_like)


@_output("", "the whole output times 1.005")
def routing_weights_half_a_percent_off(candidate: Any) -> object:
    """Every routing weight is 0.5 % too large."""
    return _weighing(candidate, lambda w: w * 1.005)


@_output("", "routing weights rounded to bfloat16")
def routing_weights_in_bfloat16() -> object:
    """Routing weights pass through bfloat16; in class fp32, where it shows."""
    return _weighing(FLOAT32, lambda w: w.bfloat16().to(w))


@_output("", "routing weights in reverse slot order")
def slots_reversed(candidate: Any) -> object:
    """Slot k has the weight of slot top_k - 1 - k."""

    def forward(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
        return candidate.forward(p, x, Routing(r.ids, r.weights.flip(1)))

    return spoiled(candidate, forward=forward)


@_output("", "last slot dropped")
def last_slot_dropped(candidate: Any) -> object:
    """The loop over slots ends one early."""
    return _weighing(candidate, lambda w: torch.cat((w[:, :-1], 0 * w[:, -1:]), dim=1))


@_output("", "only the first slot added")
def one_slot_only(candidate: Any) -> object:
    """The first slot's expert answers alone."""
    return _weighing(candidate, lambda w: torch.cat((w[:, :1], 0 * w[:, 1:]), dim=1))


@_output("", "down bias added once a slot, not weighted")
def down_bias_unweighted() -> object:
    """The down bias is added once a slot, outside of the routing weight."""

    def forward(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
        bare = replace(PLAIN, add_down_bias=lambda y, b, s: y)
        out, owned = bare.forward(p, x.float(), r), p.shard.expert_range(p.config)
        for local, expert in enumerate(owned if "down_bias" in p else ()):
            visits = (r.ids == expert).sum(dim=1, keepdim=True)
            out = out + visits * p["down_bias"][local].float() / p.shard.tp_size
        return out.to(x.dtype)

    return changed(PLAIN, forward=forward, trace=None)


@_output("", "routing weight multiplies the input")
def weight_applied_before_activation() -> object:
    """The routing weight multiplies the input of the expert, not its output."""

    def forward(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
        total = torch.zeros(x.shape)
        for slot in range(r.ids.shape[1]):
            ids, w = r.ids[:, slot : slot + 1], r.weights[:, slot : slot + 1]
            one = Routing(ids, torch.ones_like(w))
            scaled = torch.where(ids < 0, 0, w) * x.float()
            total += PLAIN.forward(p, scaled, one)
        return total.to(x.dtype)

    return changed(PLAIN, forward=forward, trace=None)


def _adding(add: Callable[[Any, Tensor, Routing], Tensor]) -> object:
    """With add(prepared, results of slots [t, k, h], routing) for their sum."""

    def forward(p: Any, x: Tensor, r: Routing, *, tactic: object = None) -> Tensor:
        return add(p, PLAIN.trace(p, x, r)["down"], r).to(x.dtype)

    return changed(PLAIN, forward=forward, trace=None)


@_output(
    "", "takes the result of the slot of its token with the highest expert id, not its"
)
def one_row_for_each_token() -> object:
    """The un-permute has one row for each token: that of its last expert."""

    def add(p: Any, down: Tensor, r: Routing) -> Tensor:
        owned = p.shard.expert_range(p.config)
        served = (r.ids >= owned.start) & (r.ids < owned.stop)
        last = r.ids.masked_fill(~served, -1).argmax(dim=1)
        rows = down[torch.arange(len(down)), last]
        return r.weights.masked_fill(~served, 0).sum(dim=1, keepdim=True) * rows

    return _adding(add)


@_output(
    "",
    "left out: where the token also has a row in a later tile of its group of 2 tiles "
    "of 16 rows (stored, not added?)",
)
def tiles_in_flight_overwrite() -> object:
    """Two tiles of 16 rows are in flight, each adds to what it read before."""

    def add(p: Any, down: Tensor, r: Routing) -> Tensor:
        out, tiles = torch.zeros(len(down), down.shape[2]), list[Tensor]()
        for expert in p.shard.expert_range(p.config):
            tiles += (r.ids == expert).nonzero().split(16)
        tiles = [tile for tile in tiles if len(tile)]
        for first in range(0, len(tiles), 2):
            before = out.clone()
            for tile in tiles[first : first + 2]:
                t, k = tile.unbind(1)
                out[t] = before[t] + r.weights[t, k, None] * down[t, k]
        return out

    return _adding(add)
