"""Faults of prepared bytes (L1): a loader that puts something elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from mxmoe.conformance.faults.decoder import Edit
from mxmoe.conformance.faults.decoder import swap_nibbles
from mxmoe.conformance.faults.fault import faults_of
from mxmoe.conformance.faults.plain import PLAIN
from mxmoe.conformance.faults.plain import Tensor
from mxmoe.conformance.faults.plain import changed
from mxmoe.conformance.faults.plain import pack
from mxmoe.conformance.faults.plain import spoiled
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Shard

_bytes = faults_of("L1", "test_prepared_bytes_match_the_layout")
_again = faults_of("L1", "test_preparing_again_gives_the_same_bytes")
_untouched = faults_of("L1", "test_prepare_does_not_modify_the_checkpoint")

_GATE_UP = ("gate_up_blocks", "gate_up_scales", "gate_up_bias")
_TRT = "NVIDIA/TensorRT-LLM#13867"

Packed = dict[str, Tensor]


def gates_then_ups(x: Tensor) -> Tensor:
    """De-interleaved."""
    return torch.cat((x[:, 0::2], x[:, 1::2]), dim=1)


def swap_gate_up(x: Tensor) -> Tensor:
    """Each up row before its gate row."""
    return x.unflatten(1, (-1, 2)).flip(2).flatten(1, 2)


def row_shuffle(x: Tensor) -> Tensor:
    """The row order of an epilogue tile of 128: row 8q + s of 32 is row 4s + q."""
    n = torch.arange(x.shape[1])
    return x[:, n - n % 32 + 4 * (n % 8) + n % 32 // 8]


def _packing(edit: Callable[..., Packed]) -> object:
    """With edit(packed, weights, config, shard) after `pack`."""

    def packed(w: ExpertWeights, config: MoEConfig, shard: Shard) -> Packed:
        return edit(pack(w, config, shard), w, config, shard)

    return replace(PLAIN, pack=packed)


def _edited(edit: Edit, *names: str) -> object:
    """With `edit` on the prepared tensors `names`."""

    def apply(tensors: Packed, *_: object) -> Packed:
        return {n: edit(t) if n in names else t for n, t in tensors.items()}

    return _packing(apply)


@_bytes(_TRT, "gate_up_scales: rows de-interleaved, gates first")
def keep_interleaved() -> object:
    """gate_up in the other row order: gates, then ups."""
    return _edited(gates_then_ups, *_GATE_UP)


@_bytes(_TRT, "gate_up_blocks: gate and up swapped")
def swapped_gate_up() -> object:
    """Each up row before its gate row."""
    return _edited(swap_gate_up, *_GATE_UP)


@_bytes("sgl-project/sglang#26884", "gate_up_bias: row shuffle 32")
def preshuffled_to_plain_consumer() -> object:
    """Every gate_up row in epilogue-tile order."""
    return _edited(row_shuffle, *_GATE_UP)


@_bytes(
    _TRT,
    "gate_up_bias: row shuffle 32",
    "gate_up_blocks: as specified, so the two disagree",
    "gate_up_scales: as specified, so the two disagree",
)
def bias_in_another_row_order() -> object:
    """The gate_up bias is in another row order than its weights."""
    return _edited(row_shuffle, "gate_up_bias")


@_bytes(
    _TRT,
    "gate_up_blocks: row shuffle 32",
    "gate_up_scales: as specified, so the two disagree",
)
def skip_row_shuffle_scales() -> object:
    """Weights and bias are shuffled, scales are not."""
    return _edited(row_shuffle, "gate_up_blocks", "gate_up_bias")


@_bytes(_TRT, "down_bias: row shuffle 32")
def down_bias_in_another_row_order() -> object:
    """The down bias is in another row order than its weights."""
    return _edited(row_shuffle, "down_bias")


@_bytes("", "down_blocks: experts shifted by one")
def experts_shifted() -> object:
    """Expert e holds the bytes of expert e - 1."""
    return _edited(lambda x: x.roll(1, 0), "down_blocks")


@_bytes("", "gate_up_blocks: K blocks shifted by one")
def k_blocks_shifted() -> object:
    """K block g holds block g - 1."""
    return _edited(lambda x: x.roll(1, 2), "gate_up_blocks")


@_bytes("vllm-project/vllm#35979", "down_scales: biased exponents one high")
def scales_one_high() -> object:
    """Biased exponents + 1."""
    return _edited(lambda x: x + 1, "gate_up_scales", "down_scales")


@_bytes("", "down_scales: rows exchanged in pairs")
def down_scale_rows_exchanged() -> object:
    """Rows 2n and 2n + 1 of W2's scales are exchanged."""
    return _edited(
        lambda x: x.unflatten(1, (-1, 2)).flip(2).flatten(1, 2), "down_scales"
    )


@_bytes(
    "", "gate_up_scales: biased exponents one high, in ", "entries that it would change"
)
def one_percent_of_scales_one_high() -> object:
    """One in a hundred of W1's biased exponents is one higher."""

    def edit(x: Tensor) -> Tensor:
        # Every 101st: no shape has blocks of so many.
        n = torch.arange(x.numel()).reshape(x.shape)
        return x + (n % 101 == 7).to(x.dtype)

    return _edited(edit, "gate_up_scales")


@_bytes("triton-lang/triton#5197", "down_blocks: nibbles swapped")
def nibbles_swapped() -> object:
    """Each packed byte with its nibbles exchanged."""
    return _edited(swap_nibbles, "gate_up_blocks", "down_blocks")


@_bytes("flashinfer-ai/flashinfer#3423", "gate_up_bias: all zero")
def bias_of_zeros() -> object:
    """The gate_up bias is allocated and never filled."""
    return _edited(torch.zeros_like, "gate_up_bias")


@_bytes("NVIDIA/Model-Optimizer#1633", "one entry is damaged", "0xff (NaN) for")
def nan_scale_byte_injected() -> object:
    """The last scale byte of the last expert is 0xFF."""

    def edit(x: Tensor) -> Tensor:
        x.view(-1)[x.numel() - 1 :] = 0xFF
        return x

    return _edited(edit, "down_scales")


@_bytes(_TRT, "down_bias: halved")
def fc2_bias_divided_in_prepare() -> object:
    """The layout's down bias is whole, this one is divided by tp."""
    return _packing(lambda t, w, c, s: t | {"down_bias": t["down_bias"] / s.tp_size})


@_bytes(
    "sgl-project/sglang#9469",
    "gate_up_bias: sliced at i / tp, not at lanes padded to a multiple",
)
def slice_before_align() -> object:
    """The bias is cut at i / tp instead of at padded lanes."""

    def edit(tensors: Packed, w: Any, config: MoEConfig, shard: Shard) -> Packed:
        n = 2 * config.intermediate // shard.tp_size
        e = shard.expert_range(config)
        bias = w.gate_up_bias[e.start : e.stop, n * shard.tp_rank :][:, :n]
        return tensors | {"gate_up_bias": bias.clone()}

    return _packing(edit)


@_bytes(_TRT, "begins at an offset of elements, not of blocks of 32")
def scale_slice_stride() -> object:
    """Down scales are cut at element offsets, not at offsets / 32."""

    def edit(tensors: Packed, w: Any, config: MoEConfig, shard: Shard) -> Packed:
        e, lanes = shard.expert_range(config), shard.intermediate_range(config)
        whole = w.down_scales[e.start : e.stop].roll(-lanes.start, 2)
        return tensors | {"down_scales": whole[:, :, : len(lanes) // 32].clone()}

    return _packing(edit)


@_bytes(
    "flashinfer-ai/flashinfer#3547", "gate_up_blocks: the experts of ep rank 0, not 1"
)
def ep_rank_0_everywhere() -> object:
    """Every expert-parallel rank loads the experts of rank 0."""
    return _packing(lambda t, w, config, s: pack(w, config, replace(s, ep_rank=0)))


@_bytes("", "expected torch.bfloat16")
def bias_in_float32() -> object:
    """The layout says bfloat16."""
    return _edited(lambda x: x.float(), "down_bias")


@_bytes("", "expected a tensor 'down_bias'")
def tensor_forgotten() -> object:
    """`prepare` returns no down bias."""
    return _packing(lambda t, *_: {n: x for n, x in t.items() if n != "down_bias"})


@_bytes("", "prepare returned list")
def prepare_returns_a_list() -> object:
    """Tensors without names."""
    return changed(PLAIN, prepare=lambda w, c, s, device: [w.down_bias])


@_bytes("NVIDIA/TensorRT-LLM#7968", "gate_up_blocks: that of layer 0")
def cache_keyed_by_shape_only() -> object:
    """The second layer of a shape gets the bytes of the first."""
    cache: dict[object, Packed] = {}

    def packed(w: ExpertWeights, config: MoEConfig, shard: Shard) -> Packed:
        return cache.setdefault((config, shard), pack(w, config, shard))

    return replace(PLAIN, pack=packed)


@_again(
    "sgl-project/sglang#28676",
    "gate_up_scales: the second prepare",
    "gate_up_scales: rows reversed",
    "something is kept of this layer",
)
def permute_cache_stale() -> object:
    """Cached row indices are spoilt between two layers."""
    seen: list[object] = []

    def edit(tensors: Packed, w: Any, config: MoEConfig, shard: Shard) -> Packed:
        if (config, shard) in seen:
            tensors["gate_up_scales"] = tensors["gate_up_scales"].flip(1)
        seen.append((config, shard))
        return tensors

    return _packing(edit)


@_again(
    "NVIDIA/TensorRT-LLM#7968",
    "gate_up_blocks: the second prepare",
    "gate_up_blocks: rows reversed",
    "something is kept of the shape before",
)
def permute_cache_of_another_shape() -> object:
    """Row indices of the last shape are used for the next."""
    last: list[Tensor] = []

    def edit(tensors: Packed, *_: object) -> Packed:
        blocks = tensors["gate_up_blocks"]
        order = last.pop() if last else torch.arange(blocks.shape[1])
        last.append(torch.arange(blocks.shape[1]))
        if len(order) != blocks.shape[1]:
            order = torch.arange(blocks.shape[1]).flip(0)
        return tensors | {"gate_up_blocks": blocks[:, order]}

    return _packing(edit)


@_again(
    "vllm-project/vllm#48312",
    "changed when the next was prepared",
    "both lie in the same memory",
)
def prepared_memory_shared() -> object:
    """All layers of a shape are prepared into the same memory."""
    buffers: dict[tuple[MoEConfig, Shard], Packed] = {}

    def packed(w: ExpertWeights, config: MoEConfig, shard: Shard) -> Packed:
        tensors = pack(w, config, shard)
        shared = buffers.setdefault((config, shard), tensors)
        return {name: shared[name].copy_(tensor) for name, tensor in tensors.items()}

    return replace(PLAIN, pack=packed)


@_untouched("", "prepare changed the caller's gate_up_bias")
def prepare_modifies_checkpoint(candidate: Any) -> object:
    """`prepare` adds to the caller's bias in place."""

    def prepare(w: Any, config: Any, shard: Any, device: Any) -> object:
        w.gate_up_bias[0] += 1
        return candidate.prepare(w, config, shard, device)

    return spoiled(candidate, prepare=prepare)


@_again(
    "vllm-project/vllm#50523",
    "gate_up_bias: the second prepare",
    "gate_up_bias: all zero",
)
def reload_overwrites(candidate: Any) -> object:
    """Biases are lost when a layer of the same shape is loaded again."""
    seen: list[object] = []

    def prepare(w: Any, config: Any, shard: Any, device: Any) -> Packed:
        tensors = dict(candidate.prepare(w, config, shard, device))
        if (config, shard) in seen:
            lost = [name for name in tensors if "bias" in name]
            tensors |= {name: torch.zeros_like(tensors[name]) for name in lost}
        seen.append((config, shard))
        return tensors

    return spoiled(candidate, prepare=prepare)
