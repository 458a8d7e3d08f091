"""Faults of a trtllm-gen loader (L1), NVIDIA/TensorRT-LLM#13867 among them.

`Loader` prepares ``trtllm_gen.v1`` one expert at a time, as the engines do, written
from the specification without the reference's steps; its own steps are fields, and a
fault replaces one.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch

from mxmoe.conformance.planted import Tensor
from mxmoe.conformance.planted import faults_of
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Shard

_TRT = "NVIDIA/TensorRT-LLM#13867"
_bytes = faults_of("L1", "test_prepared_bytes_match_the_layout")
_drawn = faults_of("L1", "test_drawn_layers_match_the_layout")
_gpt_oss = faults_of("L1", "test_gpt_oss_bytes_match_the_layout")

_CLAIMS: Mapping[str, object] = MappingProxyType(
    {"layout": "trtllm_gen.v1", "shards": "any"}
)


def lanes_of_rank(config: MoEConfig, shard: Shard) -> int:
    """P = up(up(i, lcm(128, tp)) / tp, 128)."""
    return -(-config.intermediate // (128 * shard.tp_size)) * 128


def zeros_after(x: Tensor, rows: int) -> Tensor:
    """[n, ...] -> [rows, ...]."""
    return torch.cat((x, x.new_zeros(rows - len(x), *x.shape[1:])))


def up_gate(x: Tensor, config: MoEConfig, shard: Shard) -> Tensor:
    """[2i, ...] interleaved -> [2P, ...]: this rank's ups, then its gates."""
    p = lanes_of_rank(config, shard)
    mine = slice(p * shard.tp_rank, p * (shard.tp_rank + 1))
    halves = (zeros_after(half, p * shard.tp_size)[mine] for half in (x[1::2], x[::2]))
    return torch.cat(tuple(halves))


def columns(x: Tensor, config: MoEConfig, shard: Shard, unit: int) -> Tensor:
    """[h, i/unit] -> [h, P/unit]; unit: lanes of i in one column."""
    p = lanes_of_rank(config, shard) // unit
    whole = zeros_after(x.T, p * shard.tp_size)
    return whole[p * shard.tp_rank : p * (shard.tp_rank + 1)].T


def shuffled(rows: int) -> Tensor:
    """Row n of the kernel's order is row 4s + q of its 32, n = 8q + s."""
    n = torch.arange(rows)
    return n - n % 32 + 4 * (n % 8) + n % 32 // 8


def gated(rows: int) -> Tensor:
    """The same over rows that alternate up, gate."""
    n = shuffled(rows)
    return n % 2 * (rows // 2) + n // 2


def natural(rows: int) -> Tensor:
    """No other order."""
    return torch.arange(rows)


def swizzled(x: Tensor) -> Tensor:
    """128x4 tiles, by the offset of each byte."""
    r = torch.arange(x.shape[0])[:, None]
    c = torch.arange(x.shape[1])[None, :]
    tile = r // 128 * 128 * x.shape[1] + c // 4 * 512
    out = torch.empty_like(x).flatten()
    out[(tile + r % 32 * 16 + r % 128 // 32 * 4 + c % 4).flatten()] = x.flatten()
    return out.reshape(x.shape)


def share(bias: Tensor, shard: Shard) -> Tensor:
    """float32, 1/tp on every rank."""
    return bias.float() / shard.tp_size


@dataclass(frozen=True, kw_only=True)
class Loader:
    """A `prepare` without a `forward`."""

    name: str = "plain"
    capabilities: Mapping[str, object] = field(default_factory=lambda: _CLAIMS)
    rows: Callable[[Tensor, MoEConfig, Shard], Tensor] = up_gate
    columns: Callable[[Tensor, MoEConfig, Shard, int], Tensor] = columns
    fc1_order: Callable[[int], Tensor] = gated
    fc2_order: Callable[[int], Tensor] = shuffled
    fc1_bias_order: Callable[[int], Tensor] | None = None
    fc2_bias_order: Callable[[int], Tensor] | None = None
    fc1_scales: Callable[[Tensor, Tensor], Tensor] = lambda x, p: swizzled(x[p])
    fc2_scales: Callable[[Tensor, Tensor], Tensor] = lambda x, p: swizzled(x[p])
    share: Callable[[Tensor, Shard], Tensor] = share
    hidden_alignment: int = 512
    shard_of: Callable[[Shard], Shard] = lambda shard: shard
    after: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda tensors: tensors

    def prepare(
        self,
        weights: ExpertWeights,
        config: MoEConfig,
        shard: Shard,
        device: torch.device,
    ) -> dict[str, Tensor]:
        """Each expert of the rank on its own, then stacked."""
        shard = self.shard_of(shard)
        experts = [
            self.expert(weights, e, config, shard) for e in shard.expert_range(config)
        ]
        tensors = {n: torch.stack([e[n] for e in experts]) for n in experts[0]}
        a = config.activation
        for name, value in (("alpha", a.alpha), ("beta", a.beta), ("limit", a.limit)):
            tensors[f"swiglu_{name}"] = torch.full((len(experts),), value)
        return {n: t.to(device) for n, t in self.after(tensors).items()}

    def expert(
        self, w: ExpertWeights, e: int, config: MoEConfig, shard: Shard
    ) -> dict[str, Tensor]:
        """The tensors of one expert."""
        h1 = -(-config.hidden // self.hidden_alignment) * self.hidden_alignment
        h2 = -(-config.hidden // 128) * 128
        blocks = self.rows(w.gate_up_blocks[e].flatten(1), config, shard)
        scales = self.rows(w.gate_up_scales[e], config, shard)
        fc1, fc2 = self.fc1_order(len(blocks)), self.fc2_order(h2)
        down_blocks = self.columns(w.down_blocks[e].flatten(1), config, shard, 2)
        down_scales = self.columns(w.down_scales[e], config, shard, 32)
        tensors = {
            "fc1_weights": zeros_after(blocks[fc1].T, h1 // 2).T,
            "fc1_scales": self.fc1_scales(zeros_after(scales.T, h1 // 32).T, fc1),
            "fc2_weights": zeros_after(down_blocks, h2)[fc2],
            "fc2_scales": self.fc2_scales(zeros_after(down_scales, h2), fc2),
        }
        if w.gate_up_bias is not None and w.down_bias is not None:
            b1 = self.rows(w.gate_up_bias[e], config, shard).float()
            b2 = zeros_after(self.share(w.down_bias[e], shard), h2)
            tensors["fc1_bias"] = b1[(self.fc1_bias_order or self.fc1_order)(len(b1))]
            tensors["fc2_bias"] = b2[(self.fc2_bias_order or self.fc2_order)(h2)]
        return tensors


LOADER = Loader()


def _loader(**steps: Any) -> Loader:
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


@_bytes("", "fc1_weights: stack gate, up instead of up, gate")
def gates_above_ups() -> object:
    """[gate | up], as other kernels have it."""

    def rows(x: Tensor, config: MoEConfig, shard: Shard) -> Tensor:
        return torch.cat(up_gate(x, config, shard).chunk(2)[::-1])

    return _loader(rows=rows)


@_bytes("", "fc1_bias: padded at the end of 2P, not at the end of each half")
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


@_bytes("", "fc2_weights: row shuffle 16 instead of row shuffle 32")
def epilogue_tile_64() -> object:
    """The row order of a smaller epilogue tile."""

    def order(rows: int) -> Tensor:
        n = torch.arange(rows)
        return n - n % 16 + 2 * (n % 8) + n % 16 // 8

    return _loader(fc2_order=order)


@_bytes("", "fc1_scales: only the padding differs: it holds 255")
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
