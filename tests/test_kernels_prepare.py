"""`kernels.trtllm_gen.prepare`: the reference's bytes, in any memory, or nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from mxmoe.kernels.trtllm_gen import rows
from mxmoe.kernels.trtllm_gen.bench_prepare import random_weights
from mxmoe.kernels.trtllm_gen.engine_loop import engine_loop
from mxmoe.kernels.trtllm_gen.extra_memory import peak_extra_bytes
from mxmoe.kernels.trtllm_gen.geometry import geometry
from mxmoe.kernels.trtllm_gen.prepare import pieces_on
from mxmoe.kernels.trtllm_gen.prepare import prepare
from mxmoe.reference.layouts import FLASHINFER
from mxmoe.reference.layouts import TRTLLM_GEN
from mxmoe.reference.layouts import TRTLLM_GEN_TILE64
from mxmoe.reference.layouts import Layout
from mxmoe.reference.types import WHOLE
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Shard

GOLDEN = Path(__file__).resolve().parent.parent / "conformance" / "golden"
CPU = torch.device("cpu")
VARIANTS: list[tuple[Layout, dict[str, Any]]] = [
    (TRTLLM_GEN, {}),
    (TRTLLM_GEN_TILE64, {"epilogue_tile": 64}),
    (FLASHINFER, {"hidden_alignment": (128, 128)}),
]
SMALL = MoEConfig(hidden=160, intermediate=224, experts=4, top_k=1)
POISON = 0xAB

repeatable = settings(max_examples=60, deadline=None, derandomize=True, database=None)
blocks = st.one_of(st.integers(1, 20), st.sampled_from([1, 4, 16, 90]))
configs = st.builds(
    MoEConfig,
    hidden=blocks.map(lambda n: 32 * n),
    intermediate=blocks.map(lambda n: 32 * n),
    experts=st.sampled_from([1, 2, 4, 6]),
    top_k=st.just(1),
    has_bias=st.booleans(),
)
tp_sizes = st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 16])


@st.composite
def shards(draw: st.DrawFn, config: MoEConfig) -> Shard:
    """Any rank, whatever alignment it came with."""
    tp = draw(tp_sizes)
    ep = draw(st.sampled_from([n for n in (1, 2, 3, 6) if config.experts % n == 0]))
    return Shard(
        tp_size=tp,
        tp_rank=draw(st.integers(0, tp - 1)),
        ep_size=ep,
        ep_rank=draw(st.integers(0, ep - 1)),
        alignment=draw(st.sampled_from([32, 128])),
    )


def poisoned(
    config: MoEConfig, shard: Shard, **options: Any
) -> dict[str, torch.Tensor]:
    """Output buffers full of a byte that is no padding."""
    found = {}
    for name, (shape, dtype) in geometry(config, shard, **options).outputs().items():
        tensor = torch.empty(shape, dtype=dtype)
        tensor.view(torch.uint8).fill_(POISON)
        found[name] = tensor
    return found


def assert_same(
    expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor]
) -> None:
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert tensor.dtype == found[name].dtype, name
        assert torch.equal(tensor, found[name]), name


def spread(tensor: torch.Tensor) -> torch.Tensor:
    """The same values with gaps between all entries."""
    gaps = tensor.new_zeros((*tensor.shape, 3))
    gaps[..., 1] = tensor
    return gaps[..., 1]


def shifted(tensor: torch.Tensor) -> torch.Tensor:
    """The same values, dense, at an odd entry of their memory."""
    memory = tensor.new_zeros(tensor.numel() + 1)
    memory[1:] = tensor.flatten()
    return memory[1:].view(tensor.shape)


MEMORIES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "dense": lambda tensor: tensor,
    "spread": spread,
    "shifted": shifted,
    "reversed strides": lambda t: t.movedim(0, -1).contiguous().movedim(-1, 0),
}


@repeatable
@given(data=st.data(), config=configs, variant=st.sampled_from(VARIANTS))
def test_the_bytes_are_those_of_the_layout(data, config, variant) -> None:
    layout, options = variant
    shard = data.draw(shards(config), label="shard")
    weights = random_weights(config, CPU)
    expected = layout.expected(weights, config, shard)
    out = poisoned(config, shard, **options)
    assert_same(expected, prepare(weights, config, shard, "cpu", out=out, **options))
    assert_same(expected, out)


@repeatable
@given(data=st.data(), config=configs, variant=st.sampled_from(VARIANTS))
def test_the_engine_loop_prepares_the_same_bytes(data, config, variant) -> None:
    _, options = variant
    shard = data.draw(shards(config), label="shard")
    weights = random_weights(config, CPU)
    expected = prepare(weights, config, shard, "cpu", **options)
    assert_same(expected, engine_loop(weights, config, shard, **options))


@pytest.mark.parametrize("tp", [1, 2, 4, 8])
def test_gpt_oss_lanes_on_every_rank(tp) -> None:
    """i = 2880 and its last, shorter rank; few rows of h keep it quick."""
    config = MoEConfig(hidden=96, intermediate=2880, experts=1, top_k=1)
    weights = random_weights(config, CPU)
    for rank in range(tp):
        shard = Shard(tp_size=tp, tp_rank=rank)
        expected = TRTLLM_GEN.expected(weights, config, shard)
        assert_same(expected, prepare(weights, config, shard, "cpu"))


@pytest.mark.parametrize(
    ("case", "tp", "rank"), [("s1", 1, 0), ("s2", 2, 0), ("s2", 2, 1)]
)
def test_the_golden_bytes(case, tp, rank) -> None:
    """Made by TensorRT-LLM's own loader: see ``conformance/golden/README.md``."""
    with np.load(GOLDEN / "trtllm_gen.npz") as golden:
        given_ = {
            name: torch.from_numpy(golden[f"e2e_{case}_in_{name}"])
            for name in (
                *("gate_up_proj_blocks", "gate_up_proj_scales", "gate_up_proj_bias"),
                *("down_proj_blocks", "down_proj_scales", "down_proj_bias"),
            )
        }
        letters = {"weights": "w", "scales": "s", "bias": "b"}
        expected = {
            f"{fc}_{kind}": torch.from_numpy(
                golden[f"e2e_{case}_tp{tp}_r{rank}_{fc}_{letter}"]
            )
            for fc in ("fc1", "fc2")
            for kind, letter in letters.items()
        }
    experts, twice = given_["gate_up_proj_bias"].shape
    hidden = given_["down_proj_bias"].shape[1]
    config = MoEConfig(hidden=hidden, intermediate=twice // 2, experts=experts, top_k=1)
    weights = ExpertWeights(
        gate_up_blocks=given_["gate_up_proj_blocks"],
        gate_up_scales=given_["gate_up_proj_scales"],
        gate_up_bias=given_["gate_up_proj_bias"].view(torch.bfloat16),
        down_blocks=given_["down_proj_blocks"],
        down_scales=given_["down_proj_scales"],
        down_bias=given_["down_proj_bias"].view(torch.bfloat16),
        router_weight=torch.zeros(experts, hidden),
        router_bias=torch.zeros(experts),
    )
    found = prepare(weights, config, Shard(tp_size=tp, tp_rank=rank), "cpu")
    assert_same(expected, {name: found[name] for name in expected})


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("tp", [1, 3])
def test_inputs_in_any_memory_give_the_same_bytes_and_stay(memory, tp) -> None:
    weights = random_weights(SMALL, CPU)
    shard = Shard(tp_size=tp, tp_rank=tp - 1)
    expected = TRTLLM_GEN.expected(weights, SMALL, shard)
    placed = replace(
        weights, **{n: MEMORIES[memory](t) for n, t in weights.tensors().items()}
    )
    assert_same(expected, prepare(placed, SMALL, shard, "cpu"))
    for name, tensor in weights.tensors().items():
        assert torch.equal(tensor, placed.tensors()[name]), name


def test_buffers_at_odd_addresses_are_filled() -> None:
    weights = random_weights(SMALL, CPU)
    out = {name: shifted(t) for name, t in poisoned(SMALL, WHOLE).items()}
    expected = TRTLLM_GEN.expected(weights, SMALL, WHOLE)
    assert_same(expected, prepare(weights, SMALL, WHOLE, "cpu", out=out))


def test_parameters_that_ask_for_gradients_are_prepared() -> None:
    weights = random_weights(SMALL, CPU)
    assert weights.down_bias is not None
    trained = replace(weights, down_bias=weights.down_bias.clone().requires_grad_())
    found = prepare(trained, SMALL, Shard(tp_size=2), "cpu")
    assert not found["fc2_bias"].requires_grad
    assert_same(TRTLLM_GEN.expected(weights, SMALL, Shard(tp_size=2)), found)


def test_nothing_is_remembered_between_calls() -> None:
    """A, B, A: the same rows with another tile, then another shape, then A again."""
    weights, other = random_weights(SMALL, CPU), replace(SMALL, hidden=416)
    steps: list[tuple[MoEConfig, ExpertWeights, dict[str, Any], Layout]] = [
        (SMALL, weights, {}, TRTLLM_GEN),
        (SMALL, weights, {"epilogue_tile": 64}, TRTLLM_GEN_TILE64),
        (other, random_weights(other, CPU), {}, TRTLLM_GEN),
        (SMALL, weights, {"hidden_alignment": (128, 128)}, FLASHINFER),
        (SMALL, weights, {}, TRTLLM_GEN),
    ]
    for config, given_, options, layout in steps:
        found = prepare(given_, config, WHOLE, "cpu", **options)
        assert_same(layout.expected(given_, config, WHOLE), found)


def test_a_wrong_row_map_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison above is not blind: the seed's fault, rows of fc1 unshuffled."""
    weights = random_weights(SMALL, CPU)
    expected = TRTLLM_GEN.expected(weights, SMALL, WHOLE)

    def in_order(destination, source, *, block, gated) -> None:
        destination.copy_(source)

    monkeypatch.setattr(rows, "permute_rows", in_order)
    with pytest.raises(AssertionError, match="fc1_weights"):
        assert_same(expected, prepare(weights, SMALL, WHOLE, "cpu"))


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        MoEConfig(hidden=32, intermediate=32, experts=1, top_k=1),
        MoEConfig(hidden=32, intermediate=2880, experts=1, top_k=1),
        MoEConfig(hidden=2880, intermediate=32, experts=1, top_k=1),
        MoEConfig(hidden=2880, intermediate=2880, experts=2, top_k=1),
    ],
    ids=MoEConfig.label,
)
@pytest.mark.parametrize("tp", [1, 8])
def test_extra_memory_is_a_tenth_of_the_layer_at_most(config, tp) -> None:
    weights, shard = random_weights(config, CPU), Shard(tp_size=tp)
    out = poisoned(config, shard)
    layer = sum(tensor.nbytes for tensor in out.values())
    extra = peak_extra_bytes(
        lambda: prepare(weights, config, shard, "cpu", out=out), CPU
    )
    assert 0 < extra <= 0.1 * layer


def test_extra_memory_is_counted() -> None:
    def three_at_once() -> None:
        first = torch.zeros(1000, dtype=torch.uint8)
        view = first[:10]
        del first
        second = view + torch.ones(10, dtype=torch.uint8)
        del view
        torch.zeros(500, dtype=torch.uint8).add_(second.sum().byte())

    assert peak_extra_bytes(three_at_once, CPU) == 1000 + 10 + 10


INTERPRETED = """
import torch
from mxmoe.kernels.trtllm_gen.bench_prepare import random_weights
from mxmoe.kernels.trtllm_gen.prepare import pieces_on
from mxmoe.kernels.trtllm_gen.prepare import prepare
from mxmoe.kernels.trtllm_gen.triton_mover import TRITON
from mxmoe.reference.types import MoEConfig, Shard

config = MoEConfig(hidden=96, intermediate=160, experts=1, top_k=1)
weights = random_weights(config, torch.device("cpu"))
shard = Shard(tp_size=2, tp_rank=1)
for tile in (128, 64):
    expected = prepare(weights, config, shard, "cpu", epilogue_tile=tile)
    found = prepare(weights, config, shard, "cpu", epilogue_tile=tile, mover=TRITON)
    print(all(torch.equal(tensor, found[name]) for name, tensor in expected.items()))
"""


def test_the_triton_kernels_move_the_same_bytes_in_the_interpreter() -> None:
    """Bytes only: the interpreter is not to be trusted with bfloat16."""
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.stdout.split() == ["True", "True"], done.stderr


@pytest.mark.parametrize(("rows", "columns"), [(64, 5), (0, 5), (64, 0)])
def test_a_rank_without_lanes_moves_to_another_device_too(rows, columns) -> None:
    """Found on an H100: weights on the CPU, prepared for the GPU, no rows at all."""
    source = torch.zeros(4, rows, columns, 16, dtype=torch.uint8)
    pieces = [part.shape for _, part in pieces_on(source, torch.device("meta"))]
    assert pieces == [(1, rows, 16 * columns)] * 4
