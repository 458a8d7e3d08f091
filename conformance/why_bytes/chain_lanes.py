"""Right steps on the wrong lanes: another rank's, or padded or cut elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from mxmoe.conformance.why_bytes.chain_edits import Edited
from mxmoe.conformance.why_bytes.chain_edits import with_steps
from mxmoe.conformance.why_bytes.rank_slices import shared_before_padding
from mxmoe.conformance.why_bytes.suspect import Prepared
from mxmoe.reference.layouts import Chain
from mxmoe.reference.layouts import steps
from mxmoe.reference.layouts.steps import Step
from mxmoe.reference.types import BLOCK
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Shard


def another_place(chain: Chain, prepared: Prepared, config: MoEConfig) -> Edited:
    """Right steps on the wrong lanes: another rank's, or padded elsewhere.

    config : that of `chain`.
    """
    shard = prepared.layout.aligned(prepared.shard)
    for rank in range(shard.tp_size):
        if rank != shard.tp_rank:
            other = prepared.chains(config, tp_rank=rank)[prepared.name]
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
            yield words, with_steps(chain, n, n + 1, pad)
    for words, name, cut in _unpadded(config, shard):
        if name in names:
            n = names.index(name)
            yield words, with_steps(chain, n, n + 1, cut)
    yield from shared_before_padding(chain, config, shard)


def _unpadded(config: MoEConfig, shard: Shard) -> Iterator[tuple[str, str, Step]]:
    """The cuts of ``checkpoint.v1`` at i / tp: (words, the right one's name, a cut)."""
    i, tp = config.intermediate, shard.tp_size
    for words, each in (
        ("sliced at i / tp, not at lanes padded to a multiple", -(-i // tp)),
        ("sliced at i // tp lanes, in whole blocks only", i // tp // BLOCK * BLOCK),
    ):
        start, stop = (min(i, each * n) for n in (shard.tp_rank, shard.tp_rank + 1))
        yield words, *_cut("rank's rows", 0, 2 * i, 2 * start, 2 * stop)
        if not each % BLOCK:
            blocks = (n // BLOCK for n in (i, start, stop))
            yield words, *_cut("rank's blocks", 1, *blocks)


def _cut(what: str, axis: int, size: int, start: int, stop: int) -> tuple[str, Step]:
    cut = steps.cut(what, axis, size, start, stop)
    return cut.name, cut


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
