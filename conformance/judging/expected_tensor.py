"""One prepared tensor of one rank as its layout wants it, one expert at a time."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from dataclasses import replace

import torch

from mxmoe.conformance.judging.compare_bytes import ByteDifference
from mxmoe.conformance.judging.compare_bytes import compare_bytes
from mxmoe.reference.layouts import Constant
from mxmoe.reference.layouts import Derived
from mxmoe.reference.layouts import IndexMap
from mxmoe.reference.layouts import Layout
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Shard


@dataclass(frozen=True, kw_only=True, eq=False)
class ExpectedTensor:
    """`source` [e, ...]: what the rank's experts are gathered from.

    Where nothing is gathered it is the prepared tensor itself: [e] float32 for a
    constant, without an expert axis for what is derived from the weights.
    """

    entry: IndexMap | Constant | Derived
    source: torch.Tensor

    @property
    def dtype(self) -> torch.dtype:
        """Of the prepared tensor."""
        kept = self.entry.dtype if isinstance(self.entry, IndexMap) else None
        return kept or self.source.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the prepared tensor, with its expert axis."""
        if isinstance(self.entry, IndexMap):
            return (len(self.source), *self.entry.shape)
        return tuple(self.source.shape)

    def expert(self, e: int) -> torch.Tensor:
        """The bytes of the rank's expert `e`."""
        if isinstance(self.entry, IndexMap):
            return self.entry.gather_expert(self.source[e])
        return self.source[e]

    def difference(
        self, found: torch.Tensor, pool: Executor | None = None
    ) -> ByteDifference | None:
        """As `compare_bytes` of the whole tensors, which must agree in kind.

        Where the layout moves bits, the entries are those before they were moved.
        Each thread of `pool` holds the expected bytes of one expert at a time.
        """

        def compare(e: int) -> ByteDifference | None:
            got, wanted = found[e], self.expert(e)
            difference = compare_bytes(got, wanted)
            if difference is None or not isinstance(self.entry, IndexMap):
                return difference
            if self.entry.bits is None:
                return difference
            return compare_bytes(self.entry.plain(got), self.entry.plain(wanted))

        first, count = None, 0
        mapped = map if pool is None else pool.map
        for e, difference in enumerate(mapped(compare, range(len(found)))):
            if difference is not None:
                count += difference.count
                first = first or replace(difference, at=(e, *difference.at))
        if first is None:
            return None
        return replace(first, count=count, total=found.numel())


def expert_pool() -> ThreadPoolExecutor:
    """As many threads as torch may use here, each of which uses one.

    Experts side by side: the threads of torch's own operators wait for each other
    after every one of them, which on a busy machine takes longer than the work.
    """
    return ThreadPoolExecutor(
        max_workers=torch.get_num_threads(),
        initializer=torch.set_num_threads,
        initargs=(1,),
    )


def expected_tensors(
    layout: Layout,
    weights: ExpertWeights,
    config: MoEConfig,
    shard: Shard,
    *,
    maps: Mapping[str, IndexMap] | None = None,
) -> dict[str, ExpectedTensor]:
    """All tensors of `shard` by name, from the whole layer's `weights`.

    maps : the layout's index maps of this shard, if they are at hand.
    """
    owned = shard.expert_range(config)
    if maps is None:
        maps = layout.maps(config, shard)
    expected = {}
    for name, entry in layout.chains(config, layout.aligned(shard)).items():
        if isinstance(entry, Constant):
            source = entry.expand(len(owned))
            expected[name] = ExpectedTensor(entry=entry, source=source)
        elif isinstance(entry, Derived):
            source = entry.of_rank(weights, config, layout.aligned(shard))
            expected[name] = ExpectedTensor(entry=entry, source=source)
        else:
            source = weights.tensors()[entry.source][owned.start : owned.stop]
            expected[name] = ExpectedTensor(entry=maps[name], source=source)
    return expected
