"""A named, versioned layout: for each prepared tensor, its chain of steps."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType

import torch

from mxmoe.reference.layouts.chain import Chain
from mxmoe.reference.layouts.derived import Derived
from mxmoe.reference.layouts.index_map import Constant
from mxmoe.reference.layouts.index_map import IndexMap
from mxmoe.reference.sharding import shard_weights
from mxmoe.reference.types import BLOCK
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import PreparedWeights
from mxmoe.reference.types import Shard

Entry = Chain | Constant | Derived
Chains = Mapping[str, Entry]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What `prepare` must return, for any configuration and shard.

    chains : the prepared tensors by name, in order. alignment : every rank's lanes
    of i are padded to a multiple of it (see `Shard`). refuses : why a configuration
    cannot be laid out, or None.
    """

    name: str
    chains: Callable[[MoEConfig, Shard], Chains]
    alignment: int = BLOCK
    refuses: Callable[[MoEConfig], str | None] = lambda config: None

    def aligned(self, shard: Shard) -> Shard:
        """`shard` with this layout's padding rule."""
        return replace(shard, alignment=self.alignment)

    def names(self, config: MoEConfig) -> tuple[str, ...]:
        """The prepared tensors of a configuration."""
        return tuple(self.chains(config, self.aligned(Shard())))

    def maps(self, config: MoEConfig, shard: Shard) -> Mapping[str, IndexMap]:
        """The index maps of all tensors that hold entries of the checkpoint.

        They are of one expert, so the same on every expert-parallel rank.
        """
        of_any_expert = replace(self.aligned(shard), ep_size=1, ep_rank=0)
        return _index_maps(self, config, of_any_expert)

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
        shard = self.aligned(shard)
        e = shard.expert_range(config)
        entry = self.chains(config, shard)[name]
        if isinstance(entry, Constant):
            return entry.expand(len(e))
        if isinstance(entry, Derived):
            return entry.of_rank(weights, config, shard)
        index_map = self.maps(config, shard)[name]
        return index_map.gather(weights.tensors()[entry.source][e.start : e.stop])

    def restore(self, prepared: PreparedWeights) -> ExpertWeights:
        """A rank's tensors -> its part in checkpoint order (see `shard_weights`).

        The inverse of `expected`, by undoing the steps: how *our consumer* reads
        any prepared bytes. The router is not prepared.
        """
        config, shard = prepared.config, self.aligned(prepared.shard)
        experts = len(shard.expert_range(config))
        fields: dict[str, torch.Tensor | None] = dict.fromkeys(
            ("gate_up_bias", "down_bias", "router_bias")
        )
        for name, chain in self.chains(config, shard).items():
            if isinstance(chain, Chain):
                tensor = prepared[name]
                assert isinstance(tensor, torch.Tensor)
                fields[chain.source] = chain.restore(tensor, config)
        router = torch.zeros(experts, config.hidden)
        whole = ExpertWeights(router_weight=router, **fields)  # type: ignore[arg-type]
        of_rank = replace(shard, ep_size=1, ep_rank=0)
        return shard_weights(whole, replace(config, experts=experts, top_k=1), of_rank)


# Every check of a layer and shard asks for the same maps; one set of gpt-oss shape is
# 20 MB, and 160 MB for a layout that moves single bytes.
@lru_cache(maxsize=8)
def _index_maps(
    layout: Layout, config: MoEConfig, shard: Shard
) -> Mapping[str, IndexMap]:
    found = {
        name: chain.index_map(config)
        for name, chain in layout.chains(config, shard).items()
        if isinstance(chain, Chain)
    }
    return MappingProxyType(found)
