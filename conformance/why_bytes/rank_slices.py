"""A rank's part that is cut elsewhere: before padding, from flat memory, along an axis.

The layouts pad the intermediate dimension for all ranks and then cut the rank's part
out of it. A loader may share out the lanes that there are, and pad its share; or it may
view the whole tensor as one part for each rank, though its memory is not in that order.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import replace

import torch

from mxmoe.conformance.why_bytes.step_variants import grown
from mxmoe.reference.layouts import Chain
from mxmoe.reference.layouts import steps
from mxmoe.reference.layouts.steps import Step
from mxmoe.reference.types import BLOCK
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Shard

Tensor = torch.Tensor
Edited = Iterator[tuple[str, Chain]]
# Lanes that shares are rounded to: a block of scales, and what layouts pad to.
_UNITS = (1, BLOCK, 2 * BLOCK, 4 * BLOCK)


def shared_before_padding(chain: Chain, config: MoEConfig, shard: Shard) -> Edited:
    """The rank's part as i / tp, padded afterwards, in each unit of lanes."""
    n = _number_of(chain)
    if n is None or n == 0 or not chain.steps[n - 1].name.startswith("pad"):
        return
    gate_up = chain.source.startswith("gate_up")
    for rounded, start, stop in _shares(config.intermediate, shard, gate_up):
        words = f"sliced at i / tp before padding{rounded}"
        lanes = (start, stop, config.intermediate)
        step = _share(words, chain.steps[n - 1], chain.steps[n], lanes)
        edited = (*chain.steps[: n - 1], step, *chain.steps[n + 1 :])
        yield words, replace(chain, steps=edited)


def cut_from_memory(chain: Chain) -> Edited:
    """The rank's part of flat memory, or along another axis."""
    n = _number_of(chain)
    if n is None:
        return
    names = [step.name for step in chain.steps[:n]]
    axes = ("halves", "lanes", "K columns")
    if "de-interleave" not in names:
        axes = ("rows", "K columns")  # type: ignore[assignment]
    own = 1 if axes[0] == "halves" or chain.source.startswith("down") else 0
    step = chain.steps[n]
    padded = n > 0 and chain.steps[n - 1].name.startswith("pad")
    for words, take in (
        (f"{step} from flat memory, not along the {axes[own]}", _of_memory),
        *(
            (f"{step} along the {what}, not the {axes[own]}", _along(axis))
            for axis, what in enumerate(axes)
            # Along the first axis it is flat memory.
            if axis not in (0, own)
        ),
    ):
        edited = _taken(words, None, step, take)
        yield words, _with(chain, n, n + 1, edited)
        if padded:
            early = f"{words}, before padding"
            edited = _taken(early, chain.steps[n - 1], step, take)
            yield early, _with(chain, n - 1, n + 1, edited)


def _number_of(chain: Chain) -> int | None:
    """Of the step that cuts the rank's part."""
    cuts = (n for n, s in enumerate(chain.steps) if s.name.startswith("slice rank"))
    return next(cuts, None)


def _with(chain: Chain, start: int, stop: int, step: Step) -> Chain:
    return replace(chain, steps=(*chain.steps[:start], step, *chain.steps[stop:]))


def _shares(lanes: int, shard: Shard, gate_up: bool) -> Iterator[tuple[str, int, int]]:
    """(words, first and last lane of the rank) of each way to share lanes out."""
    tp, rank = shard.tp_size, shard.tp_rank
    finest, seen = 1 if gate_up else BLOCK, set()
    for unit in _UNITS if tp > 1 else ():
        up = -(-lanes // (unit * tp)) * unit
        down = lanes // (unit * tp) * unit
        last = lanes if rank == tp - 1 else down * (rank + 1)
        for each, stop, words in (
            (up, up * (rank + 1), f", rounded up to {unit} lanes"),
            (down, last, f", rounded down to {unit} lanes, the rest on the last rank"),
        ):
            share = min(lanes, each * rank), min(lanes, stop)
            if unit < finest or share in seen:
                continue
            seen.add(share)
            plain = unit == finest and each == up
            yield "" if plain else words, *share


def _share(words: str, pad: Step, cut: Step, lanes: tuple[int, int, int]) -> Step:
    """lanes : the first, the one behind the last, and how many there are of all."""
    start, stop, total = lanes

    def apply(x: Tensor) -> Tensor:
        whole = pad.apply(x)
        axis = grown(x, whole)
        size, count = cut.apply(whole).shape[axis], x.shape[axis]
        if start * count % total or stop * count % total:
            raise ValueError("a part of a block")
        first, behind = start * count // total, stop * count // total
        part = x.narrow(axis, first, behind - first)
        size = max(size, behind - first)
        return steps.pad("", axis, behind - first, size).apply(part)

    return Step(words, apply, lambda x: x)


@dataclass(frozen=True)
class _Cut:
    """What a step cuts: `size` entries of an axis, the part `rank` of `ranks`."""

    axis: int
    size: int
    rank: int
    ranks: int

    @staticmethod
    def of(step: Step, x: Tensor) -> _Cut:
        part = step.apply(x)
        axis = grown(part, x)
        shape = [1] * x.ndim
        shape[axis] = -1
        at = torch.arange(x.shape[axis]).reshape(shape).expand(x.shape)
        size, start = part.shape[axis], int(step.apply(at).flatten()[0])
        if start % size or x.shape[axis] % size:
            raise ValueError("no equal parts")
        return _Cut(axis, size, start // size, x.shape[axis] // size)


def _of_memory(x: Tensor, cut: _Cut) -> Tensor:
    return x.reshape(cut.ranks, -1)[cut.rank]


def _along(axis: int) -> Callable[[Tensor, _Cut], Tensor]:
    def take(x: Tensor, cut: _Cut) -> Tensor:
        if axis >= x.ndim or x.shape[axis] % cut.ranks:
            raise ValueError("no equal parts")
        return x.chunk(cut.ranks, axis)[cut.rank]

    return take


def _taken(
    words: str, pad: Step | None, step: Step, take: Callable[[Tensor, _Cut], Tensor]
) -> Step:
    """What `take` gives, in the shape of the rank's part, then padded if `pad` is."""

    def apply(x: Tensor) -> Tensor:
        cut = _Cut.of(step, x if pad is None else pad.apply(x))
        if x.shape[cut.axis] % cut.ranks:
            raise ValueError("no equal parts")
        shape = list(x.shape)
        shape[cut.axis] //= cut.ranks
        part = take(x, cut).reshape(shape)
        return steps.pad("", cut.axis, shape[cut.axis], cut.size).apply(part)

    return Step(words, apply, lambda x: x)
