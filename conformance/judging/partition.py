"""The prepared tensors of all ranks, put together to the checkpoint's again.

Each rank's tensors are restored to checkpoint order by undoing the layout's steps,
not by the index maps that L1 compares with. Then every entry of the checkpoint must be
on the rank that owns it, the shares of the down bias must add up to it, and whatever
else a rank holds must be the layout's padding.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace

import torch

from mxmoe.conformance.bounds.compare_numbers import compare_numbers
from mxmoe.conformance.bounds.propagated import half_ulp
from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.rank_groups import ranks_of
from mxmoe.conformance.judging.compare_bytes import ByteDifference
from mxmoe.conformance.judging.compare_bytes import compare_bytes
from mxmoe.conformance.judging.compare_bytes import decoded
from mxmoe.conformance.judging.expected_tensor import expected_tensors
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.verdict import Failure
from mxmoe.conformance.verdict import Verdict
from mxmoe.conformance.verdict import not_run
from mxmoe.conformance.why_bytes.describe import prepared_tensors
from mxmoe.conformance.why_bytes.describe import why_lines
from mxmoe.conformance.why_bytes.describe import wrong_form
from mxmoe.reference.layouts import Chain
from mxmoe.reference.layouts import Layout
from mxmoe.reference.layouts.layout import Entry
from mxmoe.reference.sharding import shard_weights
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import PreparedWeights
from mxmoe.reference.types import Shard

DIVIDED = "down_bias"
# Values of padding that are listed.
_LISTED = 4
_CUT = (
    "gate_up_blocks",
    "gate_up_scales",
    "gate_up_bias",
    "down_blocks",
    "down_scales",
)


@dataclass(frozen=True, kw_only=True)
class _Ranks:
    """What every rank holds: as prepared, and restored to checkpoint order."""

    prepared: Mapping[Shard, PreparedWeights]
    parts: Mapping[Shard, ExpertWeights]


def judge_partition(judge: Judge, case: Case) -> None:
    """Raise `Failure` unless the ranks' prepared tensors are the checkpoint, cut up."""
    judge.subject.need("prepare")
    layout = judge.subject.layout
    if layout is None:
        raise not_run("layout: the candidate's own, so no byte has a known place")
    if case.shard.is_whole():
        raise not_run(f"{case} names one rank, which holds everything")
    data = judge.data(case)
    ranks = _prepare_all(judge, case, layout, data.weights, data.config)
    searching = judge.record.searching
    for lines in _faults(layout, ranks, data.weights, data.config, searching):
        what = f"bytes of {len(ranks.parts)} ranks"
        raise judge.fail(Verdict.MISMATCH, lines, case=case, what=what)


def _prepare_all(
    judge: Judge, case: Case, layout: Layout, weights: ExpertWeights, config: MoEConfig
) -> _Ranks:
    prepared, parts = {}, {}
    for rank in ranks_of(case.shard):
        judge.subject.require(config, rank)
        try:
            one = judge.subject.prepare(weights, config, rank)
        except Failure as error:
            lines = [f"rank {rank.label()}: {error.text}"]
            raise judge.fail(error.verdict, lines, case=case, what="prepare") from error
        problem = wrong_form(layout, one, weights, config)
        if problem is not None:
            lines = [f"rank {rank.label()}: {problem}"]
            if not judge.record.searching:
                lines += _why_form(layout, one, weights, problem)
            raise judge.fail(Verdict.MISMATCH, lines, case=case, what="prepare")
        on_cpu = {name: t.cpu() for name, t in prepared_tensors(one).items()}
        prepared[rank] = replace(one, tensors=on_cpu)
        parts[rank] = layout.restore(prepared[rank])
    return _Ranks(prepared=prepared, parts=parts)


def _why_form(
    layout: Layout, prepared: PreparedWeights, weights: ExpertWeights, problem: str
) -> list[str]:
    """The edits that give a tensor of another shape, which `problem` begins with."""
    name, found = problem.partition(":")[0], prepared_tensors(prepared)
    config, rank = prepared.config, prepared.shard
    expected = expected_tensors(layout, weights, config, rank)
    if name not in found or found[name].dtype != expected[name].dtype:
        return []
    return why_lines(name, found, layout, weights, config, rank, 0)


def _faults(
    layout: Layout,
    ranks: _Ranks,
    weights: ExpertWeights,
    config: MoEConfig,
    searching: bool,
) -> Iterator[list[str]]:
    """The lines of each thing that is wrong, worst first.

    searching : a smaller case is looked for, so that nothing is explained.
    """
    for rank, part in ranks.parts.items():
        own = shard_weights(weights, config, rank)
        for name in _CUT:
            wanted = own.tensors().get(name)
            if wanted is None:
                continue
            # Every layout keeps the values; some hold biases in float32.
            found = part.tensors()[name].to(wanted.dtype)
            difference = compare_bytes(found, wanted)
            if difference is not None:
                lines = _byte_lines(name, rank, difference, config)
                if not searching:
                    whose = _whose(name, found, ranks, weights, config)
                    expert = difference.at[0]
                    lines += whose or _edits(
                        layout, ranks.prepared[rank], name, weights, expert
                    )
                yield lines
    if config.has_bias:
        yield from _bias_faults(ranks, weights, config)
    for rank, prepared in ranks.prepared.items():
        expected = layout.expected(weights, config, rank)
        chains = layout.chains(config, layout.aligned(rank))
        for name, tensor in prepared_tensors(prepared).items():
            if name not in expected:
                continue
            difference = compare_bytes(tensor, expected[name])
            if difference is not None:
                fault = _rest(difference, chains[name])
                lines = [f"{name} of rank {rank.label()}: {fault}"]
                if isinstance(chains[name], Chain):
                    there = tensor[tensor != expected[name]].unique()
                    held = ", ".join(f"{float(x):g}" for x in there[:_LISTED])
                    more = ", ..." if len(there) > _LISTED else ""
                    lines.append(f"why    the padding holds {held}{more}")
                yield lines


def _rest(difference: ByteDifference, entry: Entry) -> str:
    """What is wrong with a tensor of which every entry of the checkpoint is right."""
    if not isinstance(entry, Chain):
        wanted, found = difference.expected.item(), difference.found.item()
        return f"expected {wanted}, found {found}"
    return (
        f"{difference.count} entries that belong to no byte of the checkpoint are not "
        f"the layout's padding, first at {list(difference.at)}"
    )


def _byte_lines(
    name: str, rank: Shard, difference: ByteDifference, config: MoEConfig
) -> list[str]:
    e = difference.at[0] + rank.expert_range(config).start
    row, *column = difference.at[1:]
    lanes = rank.intermediate_range(config)
    if name.startswith("gate_up"):
        row += 2 * lanes.start
    elif column:
        column[0] += lanes.start // 32
    position = ", ".join(map(str, (f"e={e}", row, *column)))
    return [
        f"{name}: rank {rank.label()} lacks {difference.count} of the "
        f"{difference.total} entries that it owns, first the checkpoint's [{position}]",
        f"  expected {decoded(name, difference.expected)}, "
        f"found {decoded(name, difference.found)}",
    ]


def _whose(
    name: str,
    found: torch.Tensor,
    ranks: _Ranks,
    weights: ExpertWeights,
    config: MoEConfig,
) -> list[str]:
    """Whose entries were found instead, if they are another rank's."""
    for other in ranks.parts:
        theirs = shard_weights(weights, config, other).tensors()[name]
        if theirs.shape == found.shape and compare_bytes(found, theirs) is None:
            return [f"why    it holds the part of rank {other.label()}"]
    return []


def _edits(
    layout: Layout,
    prepared: PreparedWeights,
    source: str,
    weights: ExpertWeights,
    expert: int,
) -> list[str]:
    """The edits that give what a rank holds of the checkpoint's tensor `source`.

    expert : the first of the rank that differs.
    """
    config, rank = prepared.config, prepared.shard
    chains = layout.chains(config, layout.aligned(rank))
    [name] = [
        n for n, c in chains.items() if isinstance(c, Chain) and c.source == source
    ]
    found = prepared_tensors(prepared)
    return why_lines(name, found, layout, weights, config, rank, expert)


def _bias_faults(
    ranks: _Ranks, weights: ExpertWeights, config: MoEConfig
) -> Iterator[list[str]]:
    """Each expert's down bias, summed over its tensor-parallel ranks.

    `Layout.restore` multiplies by what the layout divides by, so that each rank
    restores the whole bias and adds 1/tp of it. tp equal shares rounded to float32:
    off by at most tp half_ulp(bias / tp).
    """
    assert weights.down_bias is not None
    for ep_rank in {rank.ep_rank for rank in ranks.parts}:
        mine = [rank for rank in ranks.parts if rank.ep_rank == ep_rank]
        tp, e = mine[0].tp_size, mine[0].expert_range(config)
        truth = weights.down_bias[e.start : e.stop].double()
        shares = [_bias(ranks.parts[rank]).double() / tp for rank in mine]
        total = torch.stack(shares).sum(dim=0)
        allowed = tp * half_ulp(truth / tp, torch.float32)
        difference = compare_numbers(total, truth, allowed)
        if difference.within:
            continue
        expert, row = difference.at
        ratio = difference.found / difference.expected if difference.expected else 0
        yield [
            f"{DIVIDED}: the shares of {tp} ranks sum to {difference.found:.6g} at "
            f"[e={expert + e.start}, {row}], expected {difference.expected:.6g} "
            f"({ratio:.4g} times)",
            *_why_shares(shares, truth),
        ]


def _why_shares(shares: Sequence[torch.Tensor], truth: torch.Tensor) -> list[str]:
    """How the ranks of tp share a bias, if each holds one multiple of it.

    shares : [e, h] of each rank. truth : their sum as it should be.
    """
    tp, size = len(shares), float(truth.square().sum())
    held = [float((share * truth).sum()) / size if size else 0.0 for share in shares]
    for share, part in zip(shares, held, strict=True):
        told = part * truth
        if not compare_numbers(share, told, half_ulp(told, torch.bfloat16)).within:
            return []
    parts = [round(part * tp, 3) for part in held]
    for words, expected in (
        ("not divided by tp", [tp] * tp),
        ("divided by tp twice", [round(1 / tp, 3)] * tp),
        ("on rank 0 of tp only", [tp] + [0] * (tp - 1)),
        ("divided by tp, on rank 0 of tp only", [1] + [0] * (tp - 1)),
        ("on no rank", [0] * tp),
    ):
        if parts == expected:
            return [f"why    behaves as if: down bias {words}"]
    return [
        f"why    the ranks of tp hold {', '.join(map(str, parts))} times their share"
    ]


def _bias(part: ExpertWeights) -> torch.Tensor:
    assert part.down_bias is not None
    return part.down_bias
