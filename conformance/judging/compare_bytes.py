"""Prepared tensors against the bytes that the index maps give."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mxmoe.reference.formats import e2m1
from mxmoe.reference.formats import e8m0
from mxmoe.reference.layouts import PADDING
from mxmoe.reference.layouts import IndexMap
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Shard


@dataclass(frozen=True, kw_only=True)
class ByteDifference:
    """The first entry that differs, and how many do."""

    count: int
    total: int
    at: tuple[int, ...]
    expected: torch.Tensor
    found: torch.Tensor


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of a tensor on the CPU, last axis widened by the element size."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    if flat.numel() == 1:  # one element counts as contiguous with any stride
        flat = flat.clone(memory_format=torch.contiguous_format)
    *lead, last = tensor.shape or (1,)
    return flat.view(torch.uint8).reshape(*lead, last * tensor.element_size())


def same_bytes(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether two tensors of the same shape and dtype have the same bytes."""
    pair = as_bytes(found).reshape(-1), as_bytes(expected).reshape(-1)
    # In words of 8 where both consist of them, which takes a third of the time.
    if not any(x.numel() % 8 or x.storage_offset() % 8 for x in pair):
        return torch.equal(pair[0].view(torch.int64), pair[1].view(torch.int64))
    return torch.equal(*pair)


def compare_bytes(found: torch.Tensor, expected: torch.Tensor) -> ByteDifference | None:
    """None if both have the same bytes; shapes and dtypes must agree beforehand."""
    if same_bytes(found, expected):
        return None
    width = expected.element_size()
    differs = (as_bytes(found) != as_bytes(expected)).unflatten(-1, (-1, width))
    entries = differs.any(dim=-1).reshape(expected.shape)
    at = tuple(int(n) for n in entries.nonzero()[0])
    return ByteDifference(
        count=int(entries.sum()),
        total=entries.numel(),
        at=at,
        expected=expected.cpu()[at],
        found=found.detach().cpu()[at],
    )


def decoded(source: str, value: torch.Tensor) -> str:
    """One entry in the words of its format: ``0x3a (codes a,3 = -1, 1.5)``.

    source : the field of `ExpertWeights` that the entry comes from.
    """
    if source.endswith("blocks"):
        byte = int(value)
        low, high = byte & 0xF, byte >> 4
        values = f"{e2m1.VALUES[low]:g}, {e2m1.VALUES[high]:g}"
        return f"0x{byte:02x} (codes {low:x},{high:x} = {values})"
    if source.endswith("scales"):
        byte = int(value)
        meaning = "NaN" if byte == e8m0.NAN_BYTE else f"2^{byte - e8m0.BIAS}"
        return f"0x{byte:02x} ({meaning})"
    bits = int.from_bytes(bytes(as_bytes(value.reshape(1)).tolist()), "little")
    return f"0x{bits:0{2 * value.element_size()}x} ({float(value):.6g})"


def logical(
    at: tuple[int, ...], index_map: IndexMap, config: MoEConfig, shard: Shard
) -> str:
    """Which checkpoint entry belongs at `at`: expert, gate|up|down, row, block."""
    local, *rest = at
    expert = shard.expert_range(config)[local]
    source = index_map.source_at(tuple(rest))
    if source == PADDING:
        return f"padding (expert {expert})"
    return f"expert {expert}, {describe_source(index_map.source, source, config)}"


def describe_source(source: str, flat: int, config: MoEConfig) -> str:
    """A flat index into one expert's tensor, in words."""
    matrix, _, kind = source.rpartition("_")
    groups = (config.hidden if matrix == "gate_up" else config.intermediate) // 32
    tail = ""
    if kind == "blocks":
        flat, byte = divmod(flat, 16)
        tail = f", byte {byte}"
    if kind in ("blocks", "scales"):
        flat, block = divmod(flat, groups)
        tail = f", block {block}{tail}"
    if matrix == "gate_up":
        half = ("gate", "up")[flat % 2]
        return f"{half} {flat // 2} (checkpoint row {flat}){tail}"
    return f"down row {flat}{tail}"


def row_provenance(
    at: tuple[int, ...],
    found: torch.Tensor,
    expected: torch.Tensor,
    index_map: IndexMap,
    config: MoEConfig,
) -> str | None:
    """Which checkpoint row the found row holds, if exactly one fits."""
    local, row = at[0], at[1]
    wanted = as_bytes(expected[local]).reshape(expected.shape[1], -1)
    holds = as_bytes(found[local]).reshape(expected.shape[1], -1)[row]
    matches = (wanted == holds).all(dim=1).nonzero().flatten().tolist()
    if len(matches) != 1:
        return None
    words = {
        describe_source(index_map.source, int(run) * index_map.width, config).split(
            ", block"
        )[0]
        for run in index_map.index[matches[0]].flatten()
        if int(run) != PADDING
    }
    return words.pop() if len(words) == 1 else None
