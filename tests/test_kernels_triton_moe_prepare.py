"""`kernels.triton_moe.prepare`: the reference's bytes in any memory."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from mxmoe.kernels.triton_moe import prepare as prepare_module
from mxmoe.kernels.triton_moe import tiles
from mxmoe.kernels.triton_moe.geometry import geometry
from mxmoe.kernels.triton_moe.prepare import prepare
from mxmoe.kernels.triton_moe.side_by_side import run_side_by_side
from mxmoe.kernels.triton_moe.spread_codes import spread_codes
from mxmoe.kernels.trtllm_gen.bench_prepare import random_weights
from mxmoe.kernels.trtllm_gen.extra_memory import peak_extra_bytes
from mxmoe.reference.layouts import TRITON_MOE
from mxmoe.reference.types import WHOLE
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Shard

CPU = torch.device("cpu")
SMALL = MoEConfig(hidden=160, intermediate=224, experts=4, top_k=1)

repeatable = settings(max_examples=60, deadline=None, derandomize=True, database=None)
blocks = st.one_of(st.integers(1, 12), st.sampled_from([1, 2, 45]))
configs = st.builds(
    MoEConfig,
    hidden=blocks.map(lambda n: 32 * n),
    intermediate=blocks.map(lambda n: 32 * n),
    experts=st.sampled_from([1, 2, 4, 6]),
    top_k=st.just(1),
    has_bias=st.booleans(),
)


@st.composite
def shards(draw: st.DrawFn, config: MoEConfig) -> Shard:
    """Any rank, whatever alignment it came with; some have no lanes."""
    tp = draw(st.sampled_from([1, 2, 3, 4, 5, 7, 8, 16]))
    ep = draw(st.sampled_from([n for n in (1, 2, 3) if config.experts % n == 0]))
    return Shard(
        tp_size=tp,
        tp_rank=draw(st.integers(0, tp - 1)),
        ep_size=ep,
        ep_rank=draw(st.integers(0, ep - 1)),
        alignment=draw(st.sampled_from([32, 128])),
    )


def assert_same(
    expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor]
) -> None:
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert (tensor.dtype, tensor.device) == (found[name].dtype, found[name].device)
        assert torch.equal(tensor, found[name]), name
        assert found[name].is_contiguous(), name


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
    "one expert in every place": lambda t: t[:1].expand_as(t),
}


@repeatable
@given(data=st.data(), config=configs)
def test_the_bytes_are_those_of_the_layout(data, config) -> None:
    shard = data.draw(shards(config), label="shard")
    weights = random_weights(config, CPU)
    expected = TRITON_MOE.expected(weights, config, shard)
    assert_same(expected, prepare(weights, config, shard, "cpu"))


@repeatable
@given(data=st.data(), config=configs)
def test_sizes_are_known_beforehand(data, config) -> None:
    shard = data.draw(shards(config), label="shard")
    expected = TRITON_MOE.expected(random_weights(config, CPU), config, shard)
    found = geometry(config, shard).outputs()
    assert {n: (tuple(t.shape), t.dtype) for n, t in expected.items()} == found


@pytest.mark.parametrize("tp", [1, 2, 4, 8])
def test_gpt_oss_lanes_on_every_rank(tp) -> None:
    """i = 2880 and its last, shorter rank; few rows of h keep it quick."""
    config = MoEConfig(hidden=96, intermediate=2880, experts=1, top_k=1)
    weights = random_weights(config, CPU)
    for rank in range(tp):
        shard = Shard(tp_size=tp, tp_rank=rank)
        expected = TRITON_MOE.expected(weights, config, shard)
        assert_same(expected, prepare(weights, config, shard, "cpu"))


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("tp", [1, 3])
def test_inputs_in_any_memory_give_the_same_bytes_and_stay(memory, tp) -> None:
    weights, shard = random_weights(SMALL, CPU), Shard(tp_size=tp, tp_rank=tp - 1)
    placed = replace(
        weights, **{n: MEMORIES[memory](t) for n, t in weights.tensors().items()}
    )
    before = placed.clone()
    expected = TRITON_MOE.expected(before, SMALL, shard)
    assert_same(expected, prepare(placed, SMALL, shard, "cpu"))
    for name, tensor in before.tensors().items():
        assert torch.equal(tensor, placed.tensors()[name]), name


def test_twice_and_after_another_shape_the_bytes_are_the_same() -> None:
    weights, other = random_weights(SMALL, CPU), replace(SMALL, hidden=416)
    first = prepare(weights, SMALL, WHOLE, "cpu")
    kept = {name: tensor.clone() for name, tensor in first.items()}
    prepare(random_weights(other, CPU), other, WHOLE, "cpu")
    assert_same(kept, prepare(weights, SMALL, WHOLE, "cpu"))
    assert_same(kept, first)


def test_parameters_that_ask_for_gradients_are_prepared() -> None:
    weights = random_weights(SMALL, CPU)
    assert weights.down_bias is not None
    trained = replace(weights, down_bias=weights.down_bias.clone().requires_grad_())
    found = prepare(trained, SMALL, Shard(tp_size=2), "cpu")
    assert not found["down_bias"].requires_grad
    assert_same(TRITON_MOE.expected(weights, SMALL, Shard(tp_size=2)), found)


@pytest.mark.parametrize("piece_bytes", [1, 2 * 64 * 128, 10**5])
@pytest.mark.parametrize("gated", [True, False])
def test_the_pieces_are_not_seen_in_the_bytes(piece_bytes, gated) -> None:
    """One tile row, two of three, some experts of five."""
    # The down matrices: 160 rows of 7 blocks, 2.5 tiles by 3.5.
    weights = random_weights(replace(SMALL, experts=5), CPU)
    found = []
    for size in (piece_bytes, 10**9):
        to, scales = (torch.zeros(5, 3, 4, n, dtype=torch.uint8) for n in (2048, 128))
        options = {"gated": gated, "piece_bytes": size}
        tiles.place_weights(to, weights.down_blocks, **options)
        tiles.place_scales(scales, weights.down_scales, **options)
        found.append((to, scales))
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


@pytest.mark.parametrize("workers", [2, 9])
def test_the_workers_are_not_seen_in_the_bytes(workers, monkeypatch) -> None:
    """Also more of them than there are rows of tiles."""
    weights, shard = random_weights(SMALL, CPU), Shard(tp_size=3, tp_rank=1)
    monkeypatch.setattr(prepare_module, "_cut", lambda *_: (workers, 10**4))
    expected = TRITON_MOE.expected(weights, SMALL, shard)
    assert_same(expected, prepare(weights, SMALL, shard, "cpu"))


def test_loaders_in_inference_mode_may_have_workers(monkeypatch) -> None:
    """Tensors that were made in it cannot be written outside of it."""
    weights = random_weights(SMALL, CPU)
    monkeypatch.setattr(prepare_module, "_cut", lambda *_: (2, 10**4))
    with torch.inference_mode():
        found = prepare(weights, SMALL, WHOLE, "cpu")
    assert_same(TRITON_MOE.expected(weights, SMALL, WHOLE), found)


def test_jobs_are_in_the_caller_s_inference_mode() -> None:
    with torch.inference_mode():
        tensor = torch.zeros(2)
        run_side_by_side([lambda: tensor.add_(1)] * 3, 2)
    assert [3, 3] == tensor.tolist()


def threads_of_a_new_thread() -> int:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


def test_the_number_of_threads_is_left_as_it_was() -> None:
    """Here and in threads to come; torch gives those the number that was set last."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        found: list[int] = []
        run_side_by_side([lambda: found.append(torch.get_num_threads())] * 4, 2)
        assert [1] * 4 == found
        assert (3, 3) == (torch.get_num_threads(), threads_of_a_new_thread())
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_in_a_job_is_raised(workers) -> None:
    def fails() -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        run_side_by_side([lambda: None, fails], workers)


def bias_in_checkpoint_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare_module, "in_row_order", lambda rows, gated: rows)


def nibbles_swapped(monkeypatch: pytest.MonkeyPatch) -> None:
    def swapped(words, found, spare) -> None:
        other = words.contiguous().view(torch.uint8)
        other = ((other >> 4) | (other << 4)).view(torch.int32)
        spread_codes(other, found, spare)

    monkeypatch.setattr(tiles, "spread_codes", swapped)


def scales_of_the_other_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows r and r + 8 exchanged."""

    def place(destination, source, **options) -> None:
        right = torch.zeros_like(destination)
        tiles.place_scales(right, source, **options)
        destination.copy_(right.unflatten(-1, (-1, 2, 2)).flip(-2).flatten(-3))

    monkeypatch.setattr(prepare_module, "place_scales", place)


@pytest.mark.parametrize(
    ("plant", "wrong"),
    [
        (bias_in_checkpoint_order, {"gate_up_bias"}),
        (nibbles_swapped, {"gate_up_weights", "down_weights"}),
        (scales_of_the_other_half, {"gate_up_scales", "down_scales"}),
    ],
)
def test_a_planted_fault_is_seen(plant, wrong, monkeypatch) -> None:
    weights = random_weights(SMALL, CPU)
    expected = TRITON_MOE.expected(weights, SMALL, WHOLE)
    plant(monkeypatch)
    found = prepare(weights, SMALL, WHOLE, "cpu")
    differing = {n for n, t in expected.items() if not torch.equal(t, found[n])}
    assert wrong == differing


def with_scales(**scales: torch.Tensor) -> ExpertWeights:
    return replace(random_weights(SMALL, CPU), **scales)


def narrow() -> dict[str, torch.Tensor]:
    tensors = random_weights(SMALL, CPU).tensors()
    names = ("gate_up_scales", "down_scales")
    return {name: tensors[name].clamp(max=128) for name in names}


@pytest.mark.parametrize("name", ["gate_up_scales", "down_scales"])
@pytest.mark.parametrize("scale", [128, 129, 255])
def test_wide_scales_says_whether_a_scale_is_above_128(name, scale) -> None:
    scales = narrow()
    scales[name][1, -1, -1] = scale
    found = prepare(with_scales(**scales), SMALL, WHOLE, "cpu")["wide_scales"]
    assert (found.dtype, found.device, found.tolist()) == (
        torch.bool,
        CPU,
        [scale > 128],
    )


@pytest.mark.parametrize(
    ("name", "place", "owner"),
    [
        ("gate_up_scales", (0, 2 * 127 + 1, 4), (0, 0)),
        ("gate_up_scales", (3, 2 * 128, 0), (1, 1)),
        ("down_scales", (2, 159, 3), (0, 1)),
        ("down_scales", (1, 0, 6), (1, 0)),
    ],
)
def test_wide_scales_is_that_of_the_rank_s_own_part(name, place, owner) -> None:
    """i = 224 in ranks of 128: 128 and 96 lanes; two experts each."""
    scales = narrow()
    scales[name][place] = 200
    weights = with_scales(**scales)
    for tp_rank in (0, 1):
        for ep_rank in (0, 1):
            shard = Shard(tp_size=2, tp_rank=tp_rank, ep_size=2, ep_rank=ep_rank)
            found = prepare(weights, SMALL, shard, "cpu")["wide_scales"]
            assert found.tolist() == [(tp_rank, ep_rank) == owner]


@pytest.mark.parametrize(("experts", "tp"), [(1, 1), (2, 1), (2, 8)])
def test_extra_memory_is_a_tenth_of_the_layer_at_most(experts, tp, monkeypatch) -> None:
    """With one worker: the allocations of other threads are not counted."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    config = MoEConfig(hidden=2880, intermediate=2880, experts=experts, top_k=1)
    weights, shard = random_weights(config, CPU), Shard(tp_size=tp)
    layer = sum(t.nbytes for t in prepare(weights, config, shard, "cpu").values())
    peak = peak_extra_bytes(lambda: prepare(weights, config, shard, "cpu"), CPU)
    assert layer < peak <= 1.1 * layer


@pytest.mark.parametrize("threads", [1, 2, 64])
@pytest.mark.parametrize("experts", [1, 8, 128])
def test_workers_share_the_extra_memory(threads, experts, monkeypatch) -> None:
    """3.5 pieces each, and a piece is 64 rows at least: sizes alone, no memory."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    config = MoEConfig(hidden=2880, intermediate=2880, experts=experts, top_k=1)
    prepared = {
        name: torch.empty(shape, dtype=dtype, device="meta")
        for name, (shape, dtype) in geometry(config, WHOLE).outputs().items()
    }
    workers, piece = prepare_module._cut(prepared, (CPU, CPU))
    assert 1 <= workers <= threads
    layer = sum(tensor.nbytes for tensor in prepared.values())
    assert 3.5 * workers * max(piece, 45 * 2048) <= 0.1 * layer
    assert piece <= 2**21
