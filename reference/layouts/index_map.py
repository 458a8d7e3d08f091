"""A layout as data: for each prepared entry, the checkpoint entry it comes from."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import PreparedWeights
from mxmoe.reference.types import Shard

PADDING = -1


@dataclass(frozen=True, kw_only=True)
class IndexMap:
    """Where every entry of one prepared tensor comes from, for one expert.

    source : the field of `ExpertWeights`. index : int64 with the shape of the
    prepared tensor without its expert axis; an entry is a flat index into the
    source of one expert, or `PADDING`, which becomes 0.
    """

    source: str
    index: torch.Tensor

    def gather(self, source: torch.Tensor) -> torch.Tensor:
        """[e, ...] of the source -> [e, *index.shape], padding 0."""
        flat = source.flatten(1)
        index = self.index.to(source.device)
        if flat.shape[1] == 0 or index.numel() == 0:
            return source.new_zeros(source.shape[0], *index.shape)
        padding = index == PADDING
        index = index.clamp(min=0)
        # One expert at a time: the index is eight times as wide as what it gathers.
        gathered = source.new_empty(source.shape[0], *index.shape)
        for out, expert in zip(gathered, flat, strict=True):
            out.copy_(expert[index].masked_fill_(padding, 0))
        return gathered


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A named, versioned layout.

    names : the prepared tensors of a configuration.
    maps : their index maps, for a configuration and shard.
    restore : the prepared tensors of a rank -> its part in checkpoint order
    (the inverse), which is how *our consumer* reads any prepared bytes.
    """

    name: str
    names: Callable[[MoEConfig], tuple[str, ...]]
    maps: Callable[[MoEConfig, Shard], Mapping[str, IndexMap]]
    restore: Callable[[PreparedWeights], ExpertWeights]

    def expected(
        self, weights: ExpertWeights, config: MoEConfig, shard: Shard
    ) -> dict[str, torch.Tensor]:
        """The prepared tensors, straight from the index maps."""
        return {
            name: self.expected_tensor(name, weights, config, shard)
            for name in self.names(config)
        }

    def expected_tensor(
        self, name: str, weights: ExpertWeights, config: MoEConfig, shard: Shard
    ) -> torch.Tensor:
        """One of the prepared tensors."""
        index_map = self.maps(config, shard)[name]
        e = shard.expert_range(config)
        return index_map.gather(weights.tensors()[index_map.source][e.start : e.stop])
