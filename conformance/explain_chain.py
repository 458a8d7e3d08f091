"""Why prepared bytes differ: the edit of the layout's own steps that gives them.

A layout is a chain of named steps, and so a loader's fault is a step missing,
doubled, inverted, in another place or with another parameter. Each such edit of one
or two steps is run on the checkpoint; those that give the found bytes are named.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import replace
from itertools import combinations

import torch

from mxmoe.conformance.compare_bytes import as_bytes
from mxmoe.reference.layouts import PADDING
from mxmoe.reference.layouts import Chain
from mxmoe.reference.layouts import Constant
from mxmoe.reference.layouts import Derived
from mxmoe.reference.layouts import Layout
from mxmoe.reference.layouts import steps
from mxmoe.reference.layouts.layout import Chains
from mxmoe.reference.layouts.steps import Step
from mxmoe.reference.types import BLOCK
from mxmoe.reference.types import WHOLE
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Shard

# Two steps are edited on tensors up to this size only, and an explanation is confirmed
# on all experts of it, to stay within seconds.
_PAIRS_UP_TO_BYTES = 2**21
_FIRST_ROWS = 64


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """One prepared tensor that has other bytes than it should."""

    name: str
    found: torch.Tensor
    layout: Layout
    weights: ExpertWeights
    config: MoEConfig
    shard: Shard


def explain_chain(prepared: Prepared, expert: int = 0) -> list[str]:
    """Every edit under which the layout gives `found`, the simplest kind only.

    expert : the local expert that is compared first.
    """
    chain = _chains(prepared)[prepared.name]
    if isinstance(chain, Constant):
        return _other_constants(prepared)
    if isinstance(chain, Derived):
        return _whole_layer(chain, prepared)
    padding = _only_padding(prepared)
    if padding:
        return padding
    kinds: list[Callable[[], Iterator[tuple[str, Chain]]]] = [
        lambda: _one_step(chain),
        lambda: _another_place(chain, prepared),
    ]
    if prepared.found.nbytes <= _PAIRS_UP_TO_BYTES:
        kinds.append(lambda: _two_steps(chain))
        kinds.append(lambda: _one_step_elsewhere(chain, prepared))
    for kind in kinds:
        hits = [name for name, edited in kind() if _gives(edited, prepared, expert)]
        # A step that is its own inverse on this shape: forgetting it is likelier.
        likelier = [name for name in hits if not name.endswith(" twice")]
        if hits:
            return list(dict.fromkeys(likelier or hits))
    return [] if prepared.shard.ep_size == 1 else _other_experts(prepared)


def _chains(prepared: Prepared, **changes: int) -> Chains:
    shard = replace(prepared.layout.aligned(prepared.shard), **changes)
    return prepared.layout.chains(prepared.config, shard)


def _one_step(chain: Chain) -> Iterator[tuple[str, Chain]]:
    for n, step in enumerate(chain.steps):
        yield f"missing: {step}", chain.without(n)
        yield f"{step} twice", _replaced(chain, n, step, step)
        inverse = Step(f"inverse of {step}", step.undo, step.apply)
        yield f"the inverse of {step}", _replaced(chain, n, inverse)
        for words, other in _variants(step):
            yield words, _replaced(chain, n, other)
    gated = [n for n, s in enumerate(chain.steps) if s.name == "gated interleave"]
    for n in gated:
        # Both inverted and in the other order: the inverse of the two together.
        scattered = [
            Step(step.name, step.undo, step.apply)
            for step in reversed(chain.steps[n : n + 2])
        ]
        edited = (*chain.steps[:n], *scattered, *chain.steps[n + 2 :])
        yield "rows scattered, not gathered", replace(chain, steps=edited)
    if chain.divisor > 1:
        yield "missing: division by tp", replace(chain, divisor=1)
        yield "divided by tp twice", replace(chain, divisor=chain.divisor**2)
    if chain.bits is not None:
        yield f"missing: {chain.bits}", replace(chain, bits=None)


def _two_steps(chain: Chain) -> Iterator[tuple[str, Chain]]:
    for m, n in combinations(range(len(chain.steps)), 2):
        first, second = chain.steps[m], chain.steps[n]
        yield f"missing: {first}, {second}", chain.without(n).without(m)
        swapped = list(chain.steps)
        swapped[m], swapped[n] = second, first
        words = f"{second} before {first}, not after it"
        yield words, replace(chain, steps=tuple(swapped))


def _one_step_elsewhere(
    chain: Chain, prepared: Prepared
) -> Iterator[tuple[str, Chain]]:
    for words, elsewhere in _another_place(chain, prepared):
        for more, edited in _one_step(elsewhere):
            yield f"{words}; {more}", edited


def _variants(step: Step) -> Iterator[tuple[str, Step]]:
    """Steps that engines take in the place of this one."""
    for block in (16, 32):
        other = steps.row_shuffle(block)
        if step.name.startswith("row shuffle") and step.name != other.name:
            yield f"{other} instead of {step}", other
    if step.name == steps.stack_up_gate().name:
        gates_first = Step(
            "stack gate, up",
            lambda x: x.flatten(0, 1),
            lambda x: x.unflatten(0, (2, -1)),
        )
        yield f"{gates_first} instead of up, gate", gates_first


def _another_place(chain: Chain, prepared: Prepared) -> Iterator[tuple[str, Chain]]:
    """Right steps on the wrong lanes: another rank's, or padded elsewhere."""
    config, shard = prepared.config, prepared.layout.aligned(prepared.shard)
    for rank in range(shard.tp_size):
        if rank != shard.tp_rank:
            other = _chains(prepared, tp_rank=rank)[prepared.name]
            assert isinstance(other, Chain)
            yield f"the lanes of rank {rank}, not {shard.tp_rank}", other
    names = [step.name for step in chain.steps]
    if "stack up, gate" in names:
        start, stop = names.index("de-interleave"), names.index("stack up, gate") + 1
        before, after = chain.steps[:start], chain.steps[stop:]
        kept = replace(chain, steps=(*before, *_interleaved_rows(config, shard)))
        words = "gate and up kept interleaved, 2i rows padded at their end"
        yield words, replace(kept, steps=(*kept.steps, *after))
        yield (
            f"{words}, no gated interleave",
            replace(kept, steps=(*kept.steps, *after[1:])),
        )
        stacked = replace(chain, steps=(*before, *_stacked_first(config, shard)))
        yield (
            "padded at the end of 2P, not at the end of each half",
            replace(stacked, steps=(*stacked.steps, *after)),
        )
    if "pad K" in names and chain.source.startswith("gate_up"):
        n, k = names.index("pad K"), config.hidden
        multiples = {-(-k // m) * m: m for m in (256, 128, 64, 32)}
        for to, multiple in multiples.items():
            pad = steps.pad("K", 1, k // BLOCK, to // BLOCK)
            words = f"K padded to a multiple of {multiple}"
            yield words, _replaced(chain, n, pad)
    if "slice rank" in names:
        n = names.index("slice rank")
        unit = 1 if chain.source.startswith("gate_up") else BLOCK
        cut_first = _sliced_first(config, shard, unit)
        edited = (*chain.steps[: n - 1], *cut_first, *chain.steps[n + 1 :])
        yield "sliced at i / tp before padding", replace(chain, steps=edited)


def _interleaved_rows(config: MoEConfig, shard: Shard) -> tuple[Step, ...]:
    rows = 2 * config.intermediate
    lanes = 2 * shard.padded_intermediate(config)
    start, total = lanes * shard.tp_rank, lanes * shard.tp_size
    return (
        steps.pad("2i rows", 0, rows, total),
        steps.cut("rank", 0, total, start, start + lanes),
    )


def _stacked_first(config: MoEConfig, shard: Shard) -> tuple[Step, ...]:
    own = shard.intermediate_range(config)
    return (
        steps.deinterleave(),
        steps.cut("rank", 1, config.intermediate, own.start, own.stop),
        steps.stack_up_gate(),
        steps.pad("2P", 0, 2 * len(own), 2 * shard.padded_intermediate(config)),
    )


def _sliced_first(config: MoEConfig, shard: Shard, unit: int) -> tuple[Step, ...]:
    lanes = config.intermediate // unit
    each = -(-lanes // shard.tp_size)
    start, stop = (min(lanes, each * n) for n in (shard.tp_rank, shard.tp_rank + 1))
    padded = max(shard.padded_intermediate(config) // unit, stop - start)
    return (
        steps.cut("rank", 1, lanes, start, stop),
        steps.pad("rank", 1, stop - start, padded),
    )


def _only_padding(prepared: Prepared) -> list[str]:
    """What the padding holds, if all the rest is right."""
    maps = prepared.layout.maps(prepared.config, prepared.shard)
    index_map, found = maps[prepared.name], prepared.found.cpu()
    expected = prepared.layout.expected_tensor(
        prepared.name, prepared.weights, prepared.config, prepared.shard
    ).cpu()
    if (found.shape, found.dtype) != (expected.shape, expected.dtype):
        return []
    padding = (index_map.index == PADDING).repeat_interleave(index_map.width, dim=-1)
    if not _same(expected.masked_fill(padding, 0), found.masked_fill(padding, 0)):
        return []
    held = sorted({float(value) for value in found[:, padding].unique()[:4]})
    return [f"only the padding differs: it holds {', '.join(f'{v:g}' for v in held)}"]


def _other_experts(prepared: Prepared) -> list[str]:
    hits = []
    for rank in range(prepared.shard.ep_size):
        shard = replace(prepared.shard, ep_rank=rank)
        expected = prepared.layout.expected_tensor(
            prepared.name, prepared.weights, prepared.config, shard
        )
        if rank != prepared.shard.ep_rank and _same(expected, prepared.found):
            hits.append(f"the experts of ep rank {rank}, not {prepared.shard.ep_rank}")
    return hits


def _other_constants(prepared: Prepared) -> list[str]:
    return [
        f"holds {name}"
        for name, constant in _chains(prepared).items()
        if isinstance(constant, Constant)
        and _same(constant.expand(len(prepared.found)), prepared.found)
    ]


def _whole_layer(derived: Derived, prepared: Prepared) -> list[str]:
    whole = derived.of_rank(prepared.weights, prepared.config, WHOLE)
    if prepared.shard.is_whole() or not _same(whole, prepared.found):
        return []
    return ["that of the whole layer, not of this rank's part"]


def _gives(chain: Chain, prepared: Prepared, expert: int) -> bool:
    """Whether `chain` gives the found bytes, of one expert first, then of all."""
    found = prepared.found
    try:
        index_map = chain.index_map(prepared.config)
    except (RuntimeError, IndexError, ValueError):  # the rest does not fit the shape
        return False
    if index_map.shape != tuple(found.shape[1:]):
        return False
    e = prepared.shard.expert_range(prepared.config)
    source = prepared.weights.tensors()[chain.source][e.start : e.stop]
    if len(source) != len(found):
        return False
    wanted = found.to(source.device)
    # Almost every wrong edit shows in the first rows.
    first = replace(index_map, index=index_map.index[:_FIRST_ROWS])
    for part in (first, index_map):
        gathered = part.gather_expert(source[expert])
        if not _same(gathered, wanted[expert][: len(gathered)]):
            return False
    return found.nbytes > _PAIRS_UP_TO_BYTES or _same(index_map.gather(source), wanted)


def _same(tensor: torch.Tensor, found: torch.Tensor) -> bool:
    return (tensor.shape, tensor.dtype) == (found.shape, found.dtype) and torch.equal(
        as_bytes(tensor), as_bytes(found)
    )


def _replaced(chain: Chain, at: int, *new: Step) -> Chain:
    return replace(chain, steps=(*chain.steps[:at], *new, *chain.steps[at + 1 :]))
