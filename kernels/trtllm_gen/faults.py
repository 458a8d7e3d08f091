"""Faults of a trtllm-gen loader, NVIDIA/TensorRT-LLM#13867 among them.

Each function makes a loader that is right but for one step; the attributes that
`_found_by` gives it say which check must find it, and what the text must hold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from mxmoe.kernels.trtllm_gen.plain_loader import LOADER
from mxmoe.kernels.trtllm_gen.plain_loader import gated
from mxmoe.kernels.trtllm_gen.plain_loader import lanes_of_rank
from mxmoe.kernels.trtllm_gen.plain_loader import natural
from mxmoe.kernels.trtllm_gen.plain_loader import shuffled
from mxmoe.kernels.trtllm_gen.plain_loader import swizzled
from mxmoe.kernels.trtllm_gen.plain_loader import up_gate
from mxmoe.kernels.trtllm_gen.plain_loader import zeros_after
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Shard

Tensor = torch.Tensor
Plant = Callable[[], object]

_TRT = "NVIDIA/TensorRT-LLM#13867"


def _found_by(check: str) -> Callable[..., Callable[[Plant], Plant]]:
    def fault(incident: str = "", *says: str) -> Callable[[Plant], Plant]:
        def named(plant: Plant) -> Plant:
            plant.check, plant.incident, plant.says = check, incident, says
            return plant

        return named

    return fault


_bytes = _found_by("test_prepared_bytes_match_the_layout")
_drawn = _found_by("test_drawn_layers_match_the_layout")
_gpt_oss = _found_by("test_gpt_oss_bytes_match_the_layout")


def _loader(**steps: Any) -> object:
    return replace(LOADER, **steps)


def interleaved(x: Tensor, config: MoEConfig, shard: Shard) -> Tensor:
    """2i rows as they are, padded at their end."""
    p = 2 * lanes_of_rank(config, shard)
    return zeros_after(x, p * shard.tp_size)[
        p * shard.tp_rank : p * (shard.tp_rank + 1)
    ]


@_bytes(
    _TRT,
    "fc1_weights: gate and up kept interleaved, 2i rows padded at their end",
    "fc1_scales: gate and up kept interleaved, 2i rows padded at their end; "
    "missing: scale swizzle 128x4",
)
def pad_2i_and_keep_interleaved() -> object:
    """The first of the three historical preparations: 2i rows padded as they are."""
    plain = {name: lambda x, p: x[p] for name in ("fc1_scales", "fc2_scales")}
    return _loader(rows=interleaved, **plain)


@_bytes(
    _TRT,
    "fc1_scales: missing: scale swizzle 128x4",
    "fc2_scales: missing: scale swizzle 128x4",
    "fc1_weights: as specified, so the two disagree",
)
def skip_scale_interleave() -> object:
    """The second: scales stay row-major."""
    return _loader(fc1_scales=lambda x, p: x[p], fc2_scales=lambda x, p: x[p])


@_bytes(
    _TRT,
    "fc1_bias: missing: gated interleave, row shuffle 32",
    "fc1_weights: as specified, so the two disagree",
    "fc2_bias: missing: row shuffle 32",
)
def biases_not_shuffled() -> object:
    """The third, which cost 88 points of GSM8K: biases in another row order."""
    return _loader(fc1_bias_order=natural, fc2_bias_order=natural)


@_drawn(_TRT, "fc2_bias: missing: row shuffle 32")
def fc2_bias_not_shuffled() -> object:
    """Only the down bias keeps the checkpoint's order."""
    return _loader(fc2_bias_order=natural)


@_gpt_oss(_TRT, "fc1_bias: missing: gated interleave")
def fc1_bias_without_gated_interleave() -> object:
    """The bias is shuffled, but its halves are not interleaved."""
    return _loader(fc1_bias_order=shuffled)


@_bytes("", "row shuffle 32 before gated interleave, not after it")
def shuffle_before_interleave() -> object:
    """S of G instead of G of S."""

    def order(rows: int) -> Tensor:
        n = torch.arange(rows)
        return shuffled(rows)[n % 2 * (rows // 2) + n // 2]

    return _loader(fc1_order=order)


@_bytes("", "fc1_weights: rows scattered, not gathered")
def scatter_for_gather() -> object:
    """argsort of the permutation."""
    return _loader(fc1_order=lambda rows: gated(rows).argsort())


@_bytes("", "fc2_weights: the inverse of row shuffle 32")
def fc2_scatter_for_gather() -> object:
    """argsort of the permutation."""
    return _loader(fc2_order=lambda rows: shuffled(rows).argsort())


@_bytes("NVIDIA/TensorRT-LLM#13867", "fc1_weights: stack gate, up instead of up, gate")
def gates_above_ups() -> object:
    """[gate | up], as other kernels have it."""

    def rows(x: Tensor, config: MoEConfig, shard: Shard) -> Tensor:
        return torch.cat(up_gate(x, config, shard).chunk(2)[::-1])

    return _loader(rows=rows)


@_bytes(
    "NVIDIA/TensorRT-LLM#13867",
    "fc1_bias: padded at the end of 2P, not at the end of each half",
)
def padded_after_stacking() -> object:
    """The padding of both halves stands behind the second."""

    def rows(x: Tensor, config: MoEConfig, shard: Shard) -> Tensor:
        p = lanes_of_rank(config, shard)
        mine = slice(2 * p * shard.tp_rank, 2 * p * (shard.tp_rank + 1))
        return zeros_after(torch.cat((x[mine][1::2], x[mine][::2])), 2 * p)

    return _loader(rows=rows)


@_bytes("", "fc1_weights: K padded to a multiple of 128", "expected torch.uint8 [")
def one_padding_for_both_gemms() -> object:
    """FlashInfer's padding of the hidden size."""
    return _loader(hidden_alignment=128)


@_bytes(
    "NVIDIA/TensorRT-LLM#7968", "fc2_weights: row shuffle 16 instead of row shuffle 32"
)
def epilogue_tile_64() -> object:
    """The row order of a smaller epilogue tile."""

    def order(rows: int) -> Tensor:
        n = torch.arange(rows)
        return n - n % 16 + 2 * (n % 8) + n % 16 // 8

    return _loader(fc2_order=order)


@_bytes(
    "NVIDIA/TransformerEngine#3070",
    "fc1_scales: only the padding differs: it holds 255",
)
def scale_padding_of_nan() -> object:
    """K columns beyond hidden hold 0xFF, which turns 0 into NaN."""

    def scales(x: Tensor, p: Tensor) -> Tensor:
        x = x.clone()
        x[:, 5:] = 255
        return swizzled(x[p])

    return _loader(fc1_scales=scales)


@_bytes("sgl-project/sglang#9469", "fc1_bias: sliced at i / tp before padding")
def sharded_before_padding() -> object:
    """Each rank takes i / tp lanes and pads them afterwards."""

    def rows(x: Tensor, config: MoEConfig, shard: Shard) -> Tensor:
        n = -(-config.intermediate // shard.tp_size)
        mine = slice(n * shard.tp_rank, n * (shard.tp_rank + 1))
        halves = (x[1::2][mine], x[::2][mine])
        p = lanes_of_rank(config, shard)
        return torch.cat([zeros_after(half, p) for half in halves])

    return _loader(rows=rows)


@_bytes(_TRT, "fc2_bias: missing: division by tp")
def down_bias_not_divided() -> object:
    """After the all-reduce the bias counts tp times."""
    return _loader(share=lambda bias, shard: bias.float())


@_bytes("", "fc2_bias: all zero")
def down_bias_on_rank_0_only() -> object:
    """The sum is right; a rank alone is not what the layout says."""

    def whole(bias: Tensor, shard: Shard) -> Tensor:
        return bias.float() if shard.tp_rank == 0 else torch.zeros(bias.shape)

    return _loader(share=whole)


@_bytes("", "fc2_scales: scale swizzle 128x4 before row shuffle 32, not after it")
def swizzle_before_shuffle() -> object:
    """The row order is applied to bytes that are no longer rows."""
    return _loader(fc2_scales=lambda x, p: swizzled(x)[p])


@_bytes("", "swiglu_alpha: holds swiglu_limit", "swiglu_limit: holds swiglu_alpha")
def alpha_and_limit_exchanged() -> object:
    """Parameters handed over in another order."""

    def exchanged(t: dict[str, Tensor]) -> dict[str, Tensor]:
        limit, alpha = t["swiglu_limit"], t["swiglu_alpha"]
        return t | {"swiglu_alpha": limit, "swiglu_limit": alpha}

    return _loader(after=exchanged)


@_bytes("", "fc1_bias: the lanes of rank 0, not 1")
def tp_rank_0_everywhere() -> object:
    """Every rank loads the lanes of rank 0."""
    return _loader(shard_of=lambda shard: replace(shard, tp_rank=0))


@_bytes("flashinfer-ai/flashinfer#3547", "fc1_bias: the experts of ep rank 0, not 1")
def experts_of_rank_0_everywhere() -> object:
    """Every expert-parallel rank loads the experts of rank 0."""
    return _loader(shard_of=lambda shard: replace(shard, ep_rank=0))


@_bytes("sgl-project/sglang#26884", "fc1_weights: missing: row shuffle 32")
def fc1_weights_not_shuffled() -> object:
    """Rows of W1 stay where the interleave put them; scales and bias are shuffled."""

    def order(rows: int) -> Tensor:
        n = torch.arange(rows)
        return n % 2 * (rows // 2) + n // 2

    return _loader(fc1_weight_order=order)


@_bytes("vllm-project/vllm#46585", "fc2_weights: missing: row shuffle 32")
def fc2_weights_not_shuffled() -> object:
    """Rows of W2 stay in logical order; scales and bias are shuffled."""
    return _loader(fc2_weight_order=natural)


@_bytes(_TRT, "fc2_scales: missing: row shuffle 32")
def scales_not_shuffled() -> object:
    """Scales are swizzled, but in logical row order."""
    return _loader(fc2_scales=lambda x, p: swizzled(x))


@_bytes(_TRT, "fc1_scales: missing: scale swizzle 128x4")
def skip_scale_interleave_fc1() -> object:
    """Only the scales of W1 stay row-major."""
    return _loader(fc1_scales=lambda x, p: x[p])


@_bytes("vllm-project/vllm#42118", "fc2_scales: missing: scale swizzle 128x4")
def skip_scale_interleave_fc2() -> object:
    """Only the scales of W2 stay row-major."""
    return _loader(fc2_scales=lambda x, p: x[p])


@_gpt_oss(
    "vllm-project/vllm#46585",
    "fc1_scales: scale swizzle 128x4: tiles by column, not by row",
)
def scale_tiles_by_column() -> object:
    """Tiles of 128 x 4 scales follow each other along the rows, not along K."""

    def order(x: Tensor, p: Tensor) -> Tensor:
        tiles = swizzled(x[p]).view(x.shape[0] // 128, x.shape[1] // 4, 512)
        return tiles.transpose(0, 1).reshape(x.shape)

    return _loader(fc1_scales=order)


@_bytes(
    "ROCm/aiter#4108",
    "fc1_scales: scale swizzle 128x4 as if K were padded to a multiple of 128 only: "
    "rows of tiles begin too early",
    "fc1_weights: as specified, so the two disagree",
)
def scale_tiles_of_unpadded_k() -> object:
    """Scales of W1 are addressed with the hidden size of the model, not the padded."""

    def order(x: Tensor, p: Tensor) -> Tensor:
        last = int(x.any(dim=0).nonzero()[-1])
        tiles = swizzled(x[p][:, : last // 4 * 4 + 4]).flatten()
        return zeros_after(tiles, x.numel()).view(x.shape)

    return _loader(fc1_scales=order)


@_bytes("guqiong96/Lvllm#110", "fc1_weights: only the padding differs: it holds", "17")
def weight_padding_not_zero() -> object:
    """K columns of W1 beyond hidden hold codes of 0.5."""

    def padded(t: dict[str, Tensor]) -> dict[str, Tensor]:
        blocks = t["fc1_weights"].clone()
        blocks[..., 80:] = 0x11
        return t | {"fc1_weights": blocks}

    return _loader(after=padded)


def _bias_padding(first: int) -> object:
    """Rows of padded lanes of one half hold 1: ups come first, then gates."""

    def padded(t: dict[str, Tensor]) -> dict[str, Tensor]:
        bias = t["fc1_bias"].clone()
        rows = gated(bias.shape[1])
        half = (rows >= bias.shape[1] // 2) == bool(first)
        bias[:, half] = torch.where(bias[:, half] == 0, 1.0, bias[:, half])
        return t | {"fc1_bias": bias}

    return _loader(after=padded)


@_bytes(
    "vllm-project/vllm#50523",
    "fc1_bias: only the padding differs: it holds",
    "first at [e=0, 456]",
)
def gate_bias_padding_not_zero() -> object:
    """Padded gates have a bias of 1, which leaks through the activation."""
    return _bias_padding(1)


@_bytes(
    "AI-Hypercomputer/maxtext#3699",
    "fc1_bias: only the padding differs: it holds",
    "first at [e=0, 448]",
)
def up_bias_padding_not_zero() -> object:
    """Padded ups have a bias of 1: harmless while their gates are 0, but not zero."""
    return _bias_padding(0)
