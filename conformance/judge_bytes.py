"""One prepared tensor against its index map, and everything a failure should say."""

from __future__ import annotations

import torch

from mxmoe.conformance.case import Case
from mxmoe.conformance.compare_bytes import ByteDifference
from mxmoe.conformance.compare_bytes import compare_bytes
from mxmoe.conformance.compare_bytes import decoded
from mxmoe.conformance.compare_bytes import logical
from mxmoe.conformance.compare_bytes import row_provenance
from mxmoe.conformance.explain_bytes import explain_bytes
from mxmoe.conformance.explain_bytes import explain_tensor
from mxmoe.conformance.explain_chain import Prepared
from mxmoe.conformance.explain_chain import explain_chain
from mxmoe.conformance.judge import Judge
from mxmoe.conformance.verdict import Failure
from mxmoe.conformance.verdict import Verdict
from mxmoe.reference.layouts import Layout
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import PreparedWeights
from mxmoe.reference.types import Shard

# All tensors of a layer are copied and edited in search of an explanation up to this
# size; above it, those of the first expert that differs.
_EXPLAIN_WHOLE_UP_TO_BYTES = 2**26


def prepared_tensors(prepared: PreparedWeights) -> dict[str, torch.Tensor]:
    """The tensors among what `prepare` returned."""
    return {n: t for n, t in prepared.items() if isinstance(t, torch.Tensor)}


def judge_tensors(judge: Judge, layout: Layout, case: Case) -> None:
    """Raise `Failure` unless every prepared tensor of `case` has the expected bytes."""
    config, _ = judge.raw_bytes(case)
    for name in layout.names(config):
        judge_tensor(judge, layout, case, name, repeat=case)


def judge_tensor(
    judge: Judge, layout: Layout, case: Case, name: str, *, repeat: Case | None = None
) -> None:
    """Raise `Failure` unless the prepared tensor `name` has the expected bytes.

    repeat : what ``--case`` must be given to see the failure again.
    """
    config, weights = judge.raw_bytes(case)
    shard = case.shard
    judge.subject.require(config, shard)
    layer = "" if case.layer is None else f"layer {case.layer} · "
    what = f"{name} · {layer}{config.label()} · {shard.label()}"
    found = _prepared(judge, case, config, weights)
    if name not in found:
        names = ", ".join(sorted(found)) or "none"
        line = f"expected a tensor {name!r} from prepare, found {names}"
        raise judge.fail(Verdict.MISMATCH, [line], case=repeat, what=what)
    got = found[name]
    wanted = layout.expected_tensor(name, weights, config, shard)
    alike = (got.shape, got.dtype) == (wanted.shape, wanted.dtype)
    difference = compare_bytes(got, wanted) if alike else None
    if alike and difference is None:
        return
    if difference is None:
        expert = 0
        lines = [
            f"expected {wanted.dtype} {list(wanted.shape)}, "
            f"found {got.dtype} {list(got.shape)}"
        ]
    else:
        expert = difference.at[0]
        lines = _difference_lines(name, difference, got, wanted, layout, config, shard)
    if got.dtype == wanted.dtype and not judge.record.searching:
        lines += _why(name, found, layout, weights, config, shard, expert)
    evidence = {"found": got, "expected": wanted}
    raise judge.fail(Verdict.MISMATCH, lines, case=repeat, what=what, tensors=evidence)


def _prepared(
    judge: Judge, case: Case, config: MoEConfig, weights: ExpertWeights
) -> dict[str, torch.Tensor]:
    """Prepared once for all tensors of a case; only the last is kept."""
    key = (judge.subject.name, str(case))
    kept = judge.settings.last_prepared
    if key not in kept:
        kept.clear()
        try:
            prepared = judge.subject.prepare(weights, config, case.shard)
        except Failure as error:
            raise judge.fail(error.verdict, [error.text], what="prepare") from error
        kept[key] = prepared_tensors(prepared)
    return kept[key]


def _difference_lines(
    name: str,
    difference: ByteDifference,
    got: torch.Tensor,
    wanted: torch.Tensor,
    layout: Layout,
    config: MoEConfig,
    shard: Shard,
) -> list[str]:
    index_map = layout.maps(config, shard).get(name)
    if index_map is not None and index_map.bits is not None:
        got, wanted = index_map.plain(got), index_map.plain(wanted)
        difference = compare_bytes(got, wanted) or difference
    where = ", ".join((f"e={difference.at[0]}", *map(str, difference.at[1:])))
    lines = [
        f"{difference.count} of {difference.total} entries differ "
        f"({100 * difference.count / difference.total:.3g} %), first at [{where}]"
    ]
    source = name if index_map is None else index_map.source
    values = (
        f"  expected {decoded(source, difference.expected)}, "
        f"found {decoded(source, difference.found)}"
    )
    if index_map is None:
        return [*lines, values]
    belongs = logical(difference.at, index_map, config, shard)
    lines += [f"  belongs there: {belongs}", values]
    holds = row_provenance(difference.at, got.cpu(), wanted, index_map, config)
    if holds is not None:
        lines.append(f"  the row found there is {holds}")
    return lines


def _why(
    name: str,
    found: dict[str, torch.Tensor],
    layout: Layout,
    weights: ExpertWeights,
    config: MoEConfig,
    shard: Shard,
    expert: int,
) -> list[str]:
    """The edits that explain `name`, and those that explain the tensors beside it."""
    expected = layout.expected(weights, config, shard)
    maps = layout.maps(config, shard)
    experts = slice(None)
    if sum(tensor.nbytes for tensor in expected.values()) > _EXPLAIN_WHOLE_UP_TO_BYTES:
        experts = slice(expert, expert + 1)

    def causes(tensor: str) -> list[str]:
        suspect = Prepared(
            name=tensor,
            found=found[tensor],
            layout=layout,
            weights=weights,
            config=config,
            shard=shard,
        )
        in_steps = explain_chain(suspect, expert)
        if in_steps or tensor not in maps:
            return in_steps
        return explain_tensor(
            maps[tensor].source,
            found[tensor][experts].cpu(),
            expected[tensor][experts].cpu(),
        )

    beside = {n: t for n, t in expected.items() if n in found}
    return explain_bytes(found, beside, name, causes)
