"""A prepared tensor with wrong bytes, and how a guess at the fault fares on it.

A guess predicts entries. It explains the tensor if it is right wherever the bytes
differ; where it would change more than that, it holds in a part of the tensor only,
which `chain_places` puts into words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace
from functools import cached_property

import torch

from mxmoe.reference.layouts import PADDING
from mxmoe.reference.layouts import Chain
from mxmoe.reference.layouts import IndexMap
from mxmoe.reference.layouts import Layout
from mxmoe.reference.layouts.layout import Chains
from mxmoe.reference.layouts.steps import Step
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Shard

# As many entries refute almost every wrong guess.
_PROBES = 256
# Fewer bytes than this may agree with a guess by chance: 2**-32 for one guess.
_LEAST_EVIDENCE = 4


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """One prepared tensor that has other bytes than it should."""

    name: str
    found: torch.Tensor
    layout: Layout
    weights: ExpertWeights
    config: MoEConfig
    shard: Shard

    def chains(self, config: MoEConfig | None = None, **changes: int) -> Chains:
        """Those of its layout; `changes` of the shard."""
        shard = replace(self.layout.aligned(self.shard), **changes)
        return self.layout.chains(config or self.config, shard)


@dataclass(frozen=True, eq=False)
class Place:
    """Where a guess holds: bool [e, m] each, at the entries that are looked at.

    needed : the bytes differ, and as the guess says. changed : the guess says so.
    """

    needed: torch.Tensor
    changed: torch.Tensor

    @cached_property
    def everywhere(self) -> bool:
        """Whether the guess accounts for the whole tensor."""
        return torch.equal(self.needed, self.changed)


@dataclass(frozen=True, eq=False)
class Runs:
    """Runs of a source in the order in which a chain puts them, or nearly so.

    index : flat, as after some step. rest : for each place after the last step, where
    it is taken from there; `PADDING` stays. None: `index` is after the last step.
    """

    index: torch.Tensor
    rest: torch.Tensor | None = None

    def at(self, places: torch.Tensor) -> torch.Tensor:
        """The runs at these places after the last step."""
        if self.rest is None:
            return self.index[places]
        taken = self.rest[places]
        runs = self.index[taken.clamp(min=0).long()]
        return torch.where(taken == PADDING, PADDING, runs)


@dataclass(frozen=True, kw_only=True, eq=False)
class Suspect:
    """Entries of all the rank's experts, found and expected, as integers.

    index : the entry of one expert's source that belongs at each position [m].
    positions : int64 [m] flat in the map of `config`, in full words where bits move.
    found, expected : [e, m]; bytes, or the bits of floats. source : [e, n], flat.
    widen : the columns of one source row, here and in `config`, if it is narrower.
    narrower : makes `narrow`.
    """

    prepared: Prepared
    config: MoEConfig
    index_map: IndexMap
    positions: torch.Tensor
    found: torch.Tensor
    expected: torch.Tensor
    source: torch.Tensor
    widen: tuple[int, int] | None = None
    narrower: Callable[[Suspect], Suspect] = lambda suspect: suspect
    _refused: set[tuple[str, torch.Size]] = field(default_factory=set)
    _placed: dict[str, Place | None] = field(default_factory=dict)

    @cached_property
    def chain(self) -> Chain:
        """The declared one."""
        chain = self.prepared.chains(self.config)[self.prepared.name]
        assert isinstance(chain, Chain)
        return chain

    @cached_property
    def differs(self) -> torch.Tensor:
        """bool [e, m]."""
        return self.found != self.expected

    @cached_property
    def index(self) -> torch.Tensor:
        """Of the declared chain, see `entries`."""
        return self.entries(Runs(self.index_map.index.reshape(-1)))

    @cached_property
    def probes(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(expert, position) of entries that differ, evenly spread."""
        at = self.differs.nonzero()
        step = max(1, len(at) // _PROBES)
        first, second = at[::step].unbind(1)
        return first, second

    @cached_property
    def narrow(self) -> Suspect:
        """The same fault in a layer of fewer columns, if that is less to search."""
        return self.narrower(self)

    def entries(self, runs: Runs, at: torch.Tensor | None = None) -> torch.Tensor:
        """int64 [m]: the source entries that `runs` put at the positions.

        at : numbers of the positions that are asked for, instead of all.
        """
        width = self.index_map.width
        positions = self.positions if at is None else self.positions[at]
        run = runs.at(positions // width).long()
        entries = torch.where(run == PADDING, PADDING, run * width + positions % width)
        if self.widen is None:
            return entries
        here, there = self.widen
        wide = entries // here * there + entries % here
        return torch.where(entries == PADDING, PADDING, wide)

    def run(self, chain: Chain) -> Runs | None:
        """Those of an edited chain; None if the steps no longer fit the shape.

        A tensor of as many entries counts as one of the shape: a step that makes
        tiles of rows may be missing.
        """
        own, steps = self.chain.steps, chain.steps
        least = min(len(own), len(steps))
        before = next((n for n in range(least) if own[n] != steps[n]), least)
        after = next(
            (n for n in range(least - before) if own[-1 - n] != steps[-1 - n]),
            least - before,
        )
        index = self._states[before]
        try:
            for step in steps[before : len(steps) - after]:
                index = self._apply(step, index)
            rest = len(own) - after
            if index.shape == self._states[rest].shape:
                return Runs(index.reshape(-1), self._rests[rest])
            for step in steps[len(steps) - after :]:
                index = self._apply(step, index)
        except (RuntimeError, IndexError, ValueError):
            return None
        if index.numel() != self.index_map.index.numel():
            return None
        return Runs(index.reshape(-1))

    def probed(self, runs: Runs, chain: Chain) -> torch.Tensor:
        """What would stand at the probes."""
        expert, at = self.probes
        entries = self.entries(runs, at)
        taken = self.valued(self.source[expert, entries.clamp(min=0)], chain)
        return taken.masked_fill(entries == PADDING, 0)

    def place(self, words: str, chain: Chain) -> Place | None:
        """Where the edited chain called `words` holds; None if it explains nothing."""
        if words not in self._placed:
            self._placed[words] = self._place(chain)
        return self._placed[words]

    def _place(self, chain: Chain) -> Place | None:
        runs = self.run(chain)
        if runs is None:
            return None
        if not torch.equal(self.probed(runs, chain), self.found[self.probes]):
            return None
        entries = self.entries(runs)
        return self.holds(self.values(entries, chain), real=entries != PADDING)

    def values(self, entries: torch.Tensor, chain: Chain) -> torch.Tensor:
        """[e, m]: what stands there if these source entries do."""
        taken = self.valued(self.source[:, entries.clamp(min=0)], chain)
        return taken.masked_fill(entries == PADDING, 0)

    def holds(
        self, guess: torch.Tensor, real: torch.Tensor | None = None
    ) -> Place | None:
        """Where `guess` [e, m] holds. real : bool [m], what is no padding in it."""
        needed = self.differs
        if not torch.equal(guess[self.probes], self.found[self.probes]):
            return None
        if not bool(((guess == self.found) | ~needed).all()):
            return None
        place = Place(needed, guess != self.expected)
        if place.everywhere:
            return place
        told = needed if real is None else needed & real
        evidence = int(told.sum()) * self.found.element_size()
        return place if evidence >= _LEAST_EVIDENCE else None

    @cached_property
    def _states(self) -> list[torch.Tensor]:
        """The index before each step of the declared chain, and after the last."""
        start = replace(self.chain, steps=()).index_map(self.config).index.int()
        states = [start]
        for step in self.chain.steps:
            states.append(step.apply(states[-1]))
        return states

    @cached_property
    def _rests(self) -> list[torch.Tensor | None]:
        """For each state, where the rest of the chain takes each entry from."""
        rests: list[torch.Tensor | None] = []
        for n, state in enumerate(self._states):
            if n == len(self.chain.steps):
                rests.append(None)
                break
            index = torch.arange(state.numel(), dtype=torch.int32).reshape(state.shape)
            for step in self.chain.steps[n:]:
                index = step.apply(index)
            rests.append(index.reshape(-1))
        return rests

    def _apply(self, step: Step, index: torch.Tensor) -> torch.Tensor:
        # An error of torch takes longer than ten steps that fit.
        if (step.name, index.shape) in self._refused:
            raise ValueError(step.name)
        try:
            return step.apply(index)
        except (RuntimeError, IndexError, ValueError):
            # Names say all of a step but how much it pads or cuts.
            if not step.name.startswith(("pad", "slice")):
                self._refused.add((step.name, index.shape))
            raise

    def valued(self, taken: torch.Tensor, chain: Chain) -> torch.Tensor:
        """Entries of the source as `chain` stores them, as integers."""
        values = taken.to(chain.dtype or taken.dtype)
        return as_integers(values / chain.divisor if chain.divisor != 1 else values)


def as_integers(values: torch.Tensor) -> torch.Tensor:
    """The bits of floats, bytes as they are."""
    kinds = {4: torch.int32, 2: torch.int16}
    if not values.is_floating_point():
        return values
    return values.contiguous().view(kinds[values.element_size()])
