"""How a rank's part is cut is named, on each rank and of each tensor."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as f

from mxmoe.conformance.cases.designed import any_bytes
from mxmoe.conformance.judging.compare_bytes import as_bytes
from mxmoe.conformance.why_bytes.describe import why_lines
from mxmoe.reference.layouts import LAYOUTS
from mxmoe.reference.layouts import Chain
from mxmoe.reference.layouts import Layout
from mxmoe.reference.layouts import steps
from mxmoe.reference.layouts.steps import Step
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Shard

Tensor = torch.Tensor
TRTLLM, TRITON = LAYOUTS["trtllm_gen.v1"], LAYOUTS["triton_kernels_blackwell.v1"]
# Seven blocks, which neither two nor four ranks share equally.
SEVEN = MoEConfig(hidden=96, intermediate=224, experts=4, top_k=2)
WEIGHTS = any_bytes(SEVEN, 0)
RANKS = [Shard(tp_size=4, tp_rank=rank) for rank in range(4)]
BEFORE = "sliced at i / tp before padding"


def edited(
    layout: Layout, name: str, shard: Shard, step: Step, *, config: MoEConfig = SEVEN
) -> Tensor:
    """The tensor where `step` stands for the padding and the cut of the rank."""
    chain = layout.chains(config, layout.aligned(shard))[name]
    assert isinstance(chain, Chain)
    names = [s.name for s in chain.steps]
    n = names.index("slice rank")
    done = replace(chain, steps=(*chain.steps[: n - 1], step, *chain.steps[n + 1 :]))
    source = any_bytes(config, 0).tensors()[chain.source]
    return done.index_map(config).gather(source)


def first_line(
    layout: Layout, name: str, shard: Shard, found: Tensor, config: MoEConfig = SEVEN
) -> str:
    weights = any_bytes(config, 0)
    names = layout.names(config)
    every = {
        n: layout.expected_tensor(n, weights, config, shard)
        for n in names
        if n.rpartition("_")[0] == name.rpartition("_")[0]
    }
    assert not torch.equal(as_bytes(every[name]), as_bytes(found)), "it does not show"
    lines = why_lines(name, {**every, name: found}, layout, weights, config, shard, 0)
    return lines[0]


def shared(config: MoEConfig, shard: Shard, axis: int, size: int, unit: int) -> Step:
    """`unit` lanes at least of each rank, padded to `size` entries of `axis`."""

    def apply(x: Tensor) -> Tensor:
        lanes, per_lane = config.intermediate, x.shape[axis] / config.intermediate
        each = -(-lanes // (unit * shard.tp_size)) * unit
        at = [int(min(lanes, each * (shard.tp_rank + n)) * per_lane) for n in (0, 1)]
        part = x.narrow(axis, at[0], at[1] - at[0])
        return steps.pad("", axis, at[1] - at[0], size).apply(part)

    return Step("shared", apply, lambda x: x)


@pytest.mark.parametrize("rank", range(4))
@pytest.mark.parametrize(
    ("name", "axis", "size"),
    [
        ("fc1_weights", 1, 128),
        ("fc1_scales", 1, 128),
        ("fc1_bias", 1, 128),
        ("fc2_weights", 1, 4),
        ("fc2_scales", 1, 4),
    ],
)
def test_a_share_that_is_cut_before_padding_is_named_on_each_rank(
    name: str, axis: int, size: int, rank: int
) -> None:
    shard = RANKS[rank]
    step = shared(SEVEN, shard, axis, size, 32)
    line = first_line(TRTLLM, name, shard, edited(TRTLLM, name, shard, step))
    rounded = ", rounded up to 32 lanes" if name.startswith("fc1") else ""
    assert f"{name}: {BEFORE}{rounded}" in line
    assert "all zero" not in line


def test_a_share_in_single_lanes_is_told_from_one_in_blocks() -> None:
    shard = RANKS[1]
    step = shared(SEVEN, shard, 1, 128, 1)
    line = first_line(
        TRTLLM, "fc1_scales", shard, edited(TRTLLM, "fc1_scales", shard, step)
    )
    assert line.removeprefix("why    ") == f"fc1_scales: {BEFORE}"


def test_a_share_of_a_tensor_that_keeps_gate_and_up_together_is_named() -> None:
    shard = Shard(tp_size=4, tp_rank=2)
    config = replace(SEVEN, intermediate=288)
    name = "gate_up_scales"
    step = shared(config, shard, 0, 192, 1)
    found = edited(TRITON, name, shard, step, config=config)
    assert f"{name}: {BEFORE}" in first_line(TRITON, name, shard, found, config)


def from_memory(shard: Shard, *, pad: tuple[int, int] | None) -> Step:
    """pad : (axis, size) of K before all is viewed as one part for each rank."""

    def apply(x: Tensor) -> Tensor:
        if pad is not None:
            more = pad[1] - x.shape[pad[0]]
            x = f.pad(x, (0, 0) * (x.ndim - 1 - pad[0]) + (0, more), value=-1)
        axis = 1
        shape = list(x.shape)
        shape[axis] //= shard.tp_size
        return x.reshape(shard.tp_size, -1)[shard.tp_rank].reshape(shape)

    return Step("memory", apply, lambda x: x)


@pytest.mark.parametrize("rank", range(2))
@pytest.mark.parametrize(
    ("name", "size", "axis"),
    [
        ("fc2_scales", 8, "K columns"),
        ("fc2_weights", 8, "K columns"),
        ("fc1_scales", 256, "lanes"),
    ],
)
def test_a_part_of_flat_memory_is_named(
    name: str, size: int, axis: str, rank: int
) -> None:
    shard = Shard(tp_size=2, tp_rank=rank)
    found = edited(TRTLLM, name, shard, from_memory(shard, pad=(1, size)))
    line = first_line(TRTLLM, name, shard, found)
    assert f"{name}: slice rank from flat memory, not along the {axis}" in line
    assert "before padding" not in line


def test_a_part_of_flat_memory_that_is_padded_afterwards_is_named() -> None:
    shard = Shard(tp_size=2, tp_rank=1)
    config = replace(SEVEN, intermediate=192)

    def apply(x: Tensor) -> Tensor:
        part = from_memory(shard, pad=None).apply(x)
        return steps.pad("", 1, 3, 4).apply(part)

    found = edited(
        TRTLLM, "fc2_scales", shard, Step("memory", apply, apply), config=config
    )
    words = "slice rank from flat memory, not along the K columns, before padding"
    assert words in first_line(TRTLLM, "fc2_scales", shard, found, config)


def test_rows_that_are_cut_as_columns_are_named() -> None:
    shard = Shard(tp_size=2, tp_rank=1)
    config = replace(SEVEN, hidden=128)

    def apply(x: Tensor) -> Tensor:
        padded = f.pad(x, (0, 0, 0, 256 - x.shape[1]), value=-1)
        return padded.chunk(2, 2)[1].reshape(2, 128, -1)

    found = edited(
        TRTLLM, "fc1_scales", shard, Step("columns", apply, apply), config=config
    )
    words = "slice rank along the K columns, not the lanes"
    assert words in first_line(TRTLLM, "fc1_scales", shard, found, config)
