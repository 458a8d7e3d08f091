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
        gathered = flat[:, index.clamp(min=0)]
        return torch.where(index == PADDING, torch.zeros_like(gathered), gathered)


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
        experts = shard.expert_range(config)
        sources = weights.tensors()
        return {
            name: index_map.gather(
                sources[index_map.source][experts.start : experts.stop]
            )
            for name, index_map in self.maps(config, shard).items()
        }
