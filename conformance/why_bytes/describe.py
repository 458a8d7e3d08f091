"""What to say of a prepared tensor that has other bytes than its index map gives."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence

import torch

from mxmoe.conformance.judging.compare_bytes import ByteDifference
from mxmoe.conformance.judging.compare_bytes import decoded
from mxmoe.conformance.judging.compare_bytes import logical
from mxmoe.conformance.judging.compare_bytes import row_provenance
from mxmoe.conformance.judging.expected_tensor import ExpectedTensor
from mxmoe.conformance.judging.expected_tensor import expected_tensors
from mxmoe.conformance.why_bytes.chain import explain_chain
from mxmoe.conformance.why_bytes.finished_tensor import NO_EDIT
from mxmoe.conformance.why_bytes.finished_tensor import explain_bytes
from mxmoe.conformance.why_bytes.finished_tensor import explain_tensor
from mxmoe.conformance.why_bytes.sources import Layers
from mxmoe.conformance.why_bytes.suspect import Prepared
from mxmoe.conformance.why_bytes.suspect import Suspect
from mxmoe.conformance.why_bytes.suspects import suspect_of
from mxmoe.conformance.why_bytes.widely import explain_damage
from mxmoe.conformance.why_bytes.widely import explain_widely
from mxmoe.conformance.why_bytes.widely import only_where
from mxmoe.reference.layouts import Constant
from mxmoe.reference.layouts import Derived
from mxmoe.reference.layouts import IndexMap
from mxmoe.reference.layouts import Layout
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import PreparedWeights
from mxmoe.reference.types import Shard

# All tensors of a layer are copied and edited in search of an explanation up to this
# size; above it, those of the first expert that differs.
_EXPLAIN_WHOLE_UP_TO_BYTES = 2**26
# Of a tensor beside the one that is told of, only the usual edits above this size.
_BESIDE_UP_TO_BYTES = 2**20


def prepared_tensors(prepared: PreparedWeights) -> dict[str, torch.Tensor]:
    """The tensors among what `prepare` returned."""
    return {n: t for n, t in prepared.items() if isinstance(t, torch.Tensor)}


def in_words_of(index_map: IndexMap, words: str) -> str:
    """An edit of a prepared tensor, said of the axes that this layout gives it."""
    if index_map.index.ndim > 2 and index_map.width == 1:
        words = words.replace("rows", "rows of tiles")
        words = words.replace("K blocks", "tiles along K")
        return words.replace("each block", "each tile")
    if index_map.source.endswith("blocks") and len(index_map.shape) == 2:
        words = words.replace("K blocks", "byte columns")
        return words.replace("bytes reversed in each block", "byte columns reversed")
    return words


def _with_sizes(words: str, config: MoEConfig, shard: Shard) -> str:
    """A factor, with the sizes of the layer that are as large."""
    factor = {"halved": 2, "doubled": 2, "a quarter": 4, "times 4": 4}.get(words)
    sizes = {"tp": shard.tp_size, "ep": shard.ep_size, "top_k": config.top_k}
    named = [name for name, size in sizes.items() if size == factor]
    return f"{words} (the factor is {' or '.join(named)})" if named else words


def missing_line(name: str, found: Mapping[str, torch.Tensor]) -> str:
    """The layout has a tensor `name`; `prepare` returned only those in `found`."""
    names = ", ".join(sorted(found)) or "none"
    return f"expected a tensor {name!r} from prepare, found {names}"


def kind_line(
    got: torch.Tensor, dtype: torch.dtype, shape: Sequence[int]
) -> str | None:
    """What is wrong with the dtype or shape of `got`, or None."""
    if got.dtype == dtype and tuple(got.shape) == tuple(shape):
        return None
    return f"expected {dtype} {list(shape)}, found {got.dtype} {list(got.shape)}"


def wrong_form(
    layout: Layout, prepared: PreparedWeights, weights: ExpertWeights, config: MoEConfig
) -> str | None:
    """What keeps a rank's tensors from being restored, or None."""
    found = prepared_tensors(prepared)
    expected = expected_tensors(layout, weights, config, prepared.shard)
    for name, tensor in expected.items():
        if name not in found:
            return missing_line(name, found)
        wrong_kind = kind_line(found[name], tensor.dtype, tensor.shape)
        if wrong_kind is not None:
            return f"{name}: {wrong_kind}"
    return None


def difference_lines(
    name: str,
    difference: ByteDifference,
    got: torch.Tensor,
    expected: ExpectedTensor,
    config: MoEConfig,
    shard: Shard,
) -> list[str]:
    """How much differs, where first, what belongs there and what stands there.

    got : the whole tensor `name`. difference : what `expected` found in it.
    """
    entry = expected.entry
    if isinstance(entry, Derived):
        value, other = difference.expected.item(), difference.found.item()
        return [f"expected {value} for the weights of this rank, found {other}"]
    e, *rest = difference.at
    where = ", ".join((f"e={e}", *map(str, rest)))
    lines = [
        f"{difference.count} of {difference.total} entries differ "
        f"({100 * difference.count / difference.total:.3g} %), first at [{where}]"
    ]
    source = name if isinstance(entry, Constant) else entry.source
    values = (
        f"  expected {decoded(source, difference.expected)}, "
        f"found {decoded(source, difference.found)}"
    )
    if isinstance(entry, Constant):
        return [*lines, values]
    belongs = logical(difference.at, entry, config, shard)
    lines += [f"  belongs there: {belongs}", values]
    alone, wanted = entry.plain(got[e].cpu()), entry.plain(expected.expert(e))
    holds = row_provenance((0, *rest), alone[None], wanted[None], entry, config)
    if holds is not None:
        lines.append(f"  the row found there is {holds}")
    return lines


def why_lines(
    name: str,
    found: Mapping[str, torch.Tensor],
    layout: Layout,
    weights: ExpertWeights,
    config: MoEConfig,
    shard: Shard,
    expert: int,
    layers: Layers = lambda: iter(()),
) -> list[str]:
    """The edits that explain `name`, and those that explain the tensors beside it.

    found : what `prepare` returned. expert : the first of the rank that differs.
    layers : others of the model, whose bytes may stand here instead.
    """
    expected = expected_tensors(layout, weights, config, shard)
    experts = range(len(shard.expert_range(config)))
    if sum(tensor.nbytes for tensor in found.values()) > _EXPLAIN_WHOLE_UP_TO_BYTES:
        experts = experts[expert : expert + 1]
    part = slice(experts.start, experts.stop)
    wanted = {
        n: torch.stack([tensor.expert(e) for e in experts])
        for n, tensor in expected.items()
        if n in found and not isinstance(tensor.entry, Derived)
        if n.rpartition("_")[0] == name.rpartition("_")[0]
    }
    got = {n: found[n][part].cpu() if found[n].dim() else found[n] for n in wanted}

    looked_at: dict[str, Suspect | None] = {}

    def causes(tensor: str) -> list[str]:
        prepared = Prepared(
            name=tensor,
            found=found[tensor],
            layout=layout,
            weights=weights,
            config=config,
            shard=shard,
        )
        suspect = looked_at[tensor] = suspect_of(prepared, expert)
        pair = tuple(x.get(tensor, found[tensor]) for x in (got, wanted))
        usual = _usual_causes(prepared, suspect, expert, *pair)
        beside = tensor != name and prepared.found.nbytes > _BESIDE_UP_TO_BYTES
        if usual or suspect is None or beside:
            return usual
        unusual = explain_widely(suspect, layers)
        return unusual or _edits(prepared, *pair, most=2)

    lines = explain_bytes(got, wanted, name, causes)
    unexplained = looked_at[name]
    if lines[0].endswith(NO_EDIT) and unexplained is not None:
        there = only_where(unexplained)
        lines[0] += f"; all that differs is {there}" if there else ""
    return lines


def _usual_causes(
    prepared: Prepared,
    suspect: Suspect | None,
    expert: int,
    got: torch.Tensor,
    wanted: torch.Tensor,
) -> list[str]:
    """Damage, or the usual edits of the chain, or one of the finished tensor."""
    damage = [] if suspect is None else explain_damage(suspect)
    in_steps = damage or explain_chain(prepared, expert, suspect)
    return in_steps or _edits(prepared, got, wanted, most=1)


def _edits(
    prepared: Prepared, got: torch.Tensor, wanted: torch.Tensor, *, most: int
) -> list[str]:
    """Edits of the finished tensor, in the words of its layout."""
    maps = prepared.layout.maps(prepared.config, prepared.shard)
    if prepared.name not in maps:
        return []
    entry = maps[prepared.name]
    return [
        _with_sizes(in_words_of(entry, name), prepared.config, prepared.shard)
        for name in explain_tensor(entry.source, got, wanted, most=most)
    ]
