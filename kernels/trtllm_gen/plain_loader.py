"""A trtllm-gen loader of plain steps, correct, for `faults` to replace one of them.

It prepares ``trtllm_gen.v1`` one expert at a time, as the engines do, written from the
specification without the reference's steps.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from types import MappingProxyType

import torch

from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Shard

Tensor = torch.Tensor

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
    fc1_weight_order: Callable[[int], Tensor] | None = None
    fc2_weight_order: Callable[[int], Tensor] | None = None
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
        fc1_weights = (self.fc1_weight_order or self.fc1_order)(len(blocks))
        fc2_weights = (self.fc2_weight_order or self.fc2_order)(h2)
        down_blocks = self.columns(w.down_blocks[e].flatten(1), config, shard, 2)
        down_scales = self.columns(w.down_scales[e], config, shard, 32)
        tensors = {
            "fc1_weights": zeros_after(blocks[fc1_weights].T, h1 // 2).T,
            "fc1_scales": self.fc1_scales(zeros_after(scales.T, h1 // 32).T, fc1),
            "fc2_weights": zeros_after(down_blocks, h2)[fc2_weights],
            "fc2_scales": self.fc2_scales(zeros_after(down_scales, h2), fc2),
        }
        if w.gate_up_bias is not None and w.down_bias is not None:
            b1 = self.rows(w.gate_up_bias[e], config, shard).float()
            b2 = zeros_after(self.share(w.down_bias[e], shard), h2)
            tensors["fc1_bias"] = b1[(self.fc1_bias_order or self.fc1_order)(len(b1))]
            tensors["fc2_bias"] = b2[(self.fc2_bias_order or self.fc2_order)(h2)]
        return tensors


LOADER = Loader()
