"""The layouts of triton_kernels against bytes that the package itself made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from mxmoe.reference.layouts import LAYOUTS
from mxmoe.reference.layouts import PADDING
from mxmoe.reference.layouts import TRITON_BLACKWELL
from mxmoe.reference.layouts import TRITON_BLACKWELL_SHUFFLED
from mxmoe.reference.layouts import TRITON_HOPPER
from mxmoe.reference.layouts import TRITON_HOPPER_WARPS4
from mxmoe.reference.layouts import BitOrder
from mxmoe.reference.layouts import Chain
from mxmoe.reference.layouts import Layout
from mxmoe.reference.layouts.bit_order import WORD_BITS
from mxmoe.reference.layouts.triton_hopper import FP4_IN_BF16
from mxmoe.reference.sharding import shard_weights
from mxmoe.reference.types import WHOLE
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import PreparedWeights
from mxmoe.reference.types import Shard
from mxmoe.reference.types import expected_tensors

GOLDEN = Path(__file__).parents[1] / "conformance" / "golden"
SMALL = {
    "s1": MoEConfig(hidden=64, intermediate=96, experts=2, top_k=1),
    "s2": MoEConfig(hidden=160, intermediate=160, experts=1, top_k=1),
}
GPT_OSS_EXPERT = MoEConfig(hidden=2880, intermediate=2880, experts=1, top_k=1)
SMALL_RANKS = (("s1", 1, 0), ("s1", 2, 1), ("s2", 1, 0), ("s2", 4, 2), ("s2", 4, 3))
# Which of the package's value and scale layouts each of ours is made of.
MADE_OF = {
    TRITON_HOPPER.name: ("hopper", "hopper_warps8"),
    TRITON_HOPPER_WARPS4.name: ("hopper", "hopper_warps4"),
    TRITON_BLACKWELL.name: ("blackwell", "blackwell"),
    TRITON_BLACKWELL_SHUFFLED.name: ("blackwell_shuffled", "blackwell"),
}
# The seeds of the generator that conformance/golden/README.md describes.
SEEDS = {
    "gate_up_blocks": 1,
    "gate_up_scales": 2,
    "gate_up_bias": 3,
    "down_blocks": 4,
    "down_scales": 5,
    "down_bias": 6,
}
OURS = tuple(LAYOUTS[name] for name in MADE_OF)
all_layouts = pytest.mark.parametrize("layout", OURS, ids=MADE_OF)
repeatable = settings(max_examples=40, deadline=None, derandomize=True, database=None)
configs = st.builds(
    MoEConfig,
    hidden=st.integers(1, 11).map(lambda blocks: 32 * blocks),
    intermediate=st.integers(1, 9).map(lambda blocks: 32 * blocks),
    experts=st.sampled_from([1, 2]),
    top_k=st.just(1),
    has_bias=st.booleans(),
)


def generated(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    """Bytes by the generator of the golden files; int64 holds all its products."""
    x = (torch.arange(int(np.prod(shape))) * 2654435761 + seed * 0x9E3779B1) % 2**32
    x ^= x >> 16
    x = x * 0x85EBCA6B % 2**32
    x ^= x >> 13
    x = x * 0xC2B2AE35 % 2**32
    return ((x ^ x >> 16) & 0xFF).to(torch.uint8).reshape(shape)


def layer(config: MoEConfig) -> ExpertWeights:
    tensors = dict.fromkeys((*SEEDS, "router_bias"))
    for name, (shape, dtype) in expected_tensors(config).items():
        if name.startswith("router"):
            tensors[name] = torch.zeros(shape)
        elif dtype == torch.uint8:
            tensors[name] = generated(SEEDS[name], shape)
        else:
            levels = generated(SEEDS[name], shape).to(torch.int16) - 128
            tensors[name] = (levels / 16).to(torch.bfloat16)
    return ExpertWeights(**tensors)


@pytest.fixture(scope="module")
def package_bytes() -> dict[str, np.ndarray]:
    """Arrays that the package made; see conformance/golden/README.md."""
    with np.load(GOLDEN / "triton_kernels.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def stem(layout: Layout, tensor: str) -> str:
    """The golden arrays' name of a prepared tensor."""
    of_weights, of_scales = MADE_OF[layout.name]
    return f"{tensor}_{of_weights if tensor.endswith('weights') else of_scales}"


def differences(layout: Layout, package_bytes: dict[str, np.ndarray]) -> Iterator[str]:
    """The golden arrays that `layout` does not give, all shapes and ranks."""
    for case, tp, rank in SMALL_RANKS:
        config, shard = SMALL[case], Shard(tp_size=tp, tp_rank=rank)
        for name, tensor in layout.expected(layer(config), config, shard).items():
            if not name.endswith("bias"):
                key = f"{case}_tp{tp}_r{rank}_{stem(layout, name)}"
                if tensor.numpy().tobytes() != package_bytes[key].tobytes():
                    yield key


def changed(layout: Layout, change) -> Layout:
    """`layout` with every chain put through `change`."""
    return replace(
        layout,
        chains=lambda config, shard: {
            name: change(chain) for name, chain in layout.chains(config, shard).items()
        },
    )


@all_layouts
def test_the_bytes_are_those_of_the_package(layout, package_bytes) -> None:
    assert [] == list(differences(layout, package_bytes))


@all_layouts
def test_the_shape_is_what_lies_in_the_package_s_memory(layout, package_bytes) -> None:
    """But for the Blackwell scales, whose tiles the package shows as axes."""
    config = SMALL["s1"]
    for name, tensor in layout.expected(layer(config), config, WHOLE).items():
        if name.endswith("bias") or stem(layout, name).endswith("scales_blackwell"):
            continue
        assert (
            tuple(tensor.shape)
            == package_bytes[f"s1_tp1_r0_{stem(layout, name)}"].shape
        )


@pytest.mark.parametrize(
    ("tp", "rank"), [(1, 0), (2, 1), (8, 7)], ids=["tp1", "tp2r1", "tp8r7"]
)
def test_a_gpt_oss_expert_has_the_digests_of_the_package(tp, rank) -> None:
    record = json.loads((GOLDEN / "triton_kernels_sha256.json").read_text())
    shard, weights = Shard(tp_size=tp, tp_rank=rank), layer(GPT_OSS_EXPERT)
    for name in ("gate_up_weights", "gate_up_scales", "down_weights", "down_scales"):
        for layout in OURS:
            key = f"tp{tp}_r{rank}_{stem(layout, name)}"
            tensor = layout.expected_tensor(name, weights, GPT_OSS_EXPERT, shard)
            digest = hashlib.sha256(tensor.numpy()).hexdigest()
            assert record["gptoss_layer_E1"][key]["sha256"] == digest, key


@all_layouts
def test_biases_are_float32_in_checkpoint_order(layout) -> None:
    """Written out here: rank 1 of 2 has lanes 64..95 and then nothing."""
    config, shard = SMALL["s1"], Shard(tp_size=2, tp_rank=1)
    weights = layer(config)
    found = layout.expected(weights, config, shard)
    gate_up = torch.zeros(2, 128)
    gate_up[:, :64] = weights.gate_up_bias[:, 128:]
    assert torch.equal(gate_up, found["gate_up_bias"])
    assert torch.equal(weights.down_bias.float() / 2, found["down_bias"])
    assert torch.float32 == found["down_bias"].dtype


@all_layouts
def test_no_step_can_be_forgotten_unseen(layout, package_bytes) -> None:
    """Without it some golden array or its shape differs, or later steps do not fit."""
    steps, seen = set(), set()
    for case, tp, rank in SMALL_RANKS:
        config, shard = SMALL[case], Shard(tp_size=tp, tp_rank=rank)
        tensors = layer(config).tensors()
        for name, chain in layout.chains(config, shard).items():
            for n, step in enumerate(chain.steps if "bias" not in name else ()):
                steps.add(step.name)
                try:
                    index_map = chain.without(n).index_map(config)
                    found = index_map.gather(tensors[chain.source])
                except (RuntimeError, IndexError):
                    seen.add(step.name)
                    continue
                key = f"{case}_tp{tp}_r{rank}_{stem(layout, name)}"
                reshaped = found.shape[1:] != chain.index_map(config).shape
                if reshaped or found.numpy().tobytes() != package_bytes[key].tobytes():
                    seen.add(step.name)
    assert steps == seen


def _codes_swapped(chain: Chain) -> Chain:
    """High and low codes of every byte exchanged."""
    places = FP4_IN_BF16.places
    other = tuple(places[b ^ 4] for b in range(WORD_BITS))
    return replace(chain, bits=chain.bits and BitOrder("planted", other))


def _two_bits_swapped(chain: Chain) -> Chain:
    """The exponents' two bits of the fourth code exchanged."""
    places = list(FP4_IN_BF16.places)
    places[25], places[26] = places[26], places[25]
    return replace(chain, bits=chain.bits and BitOrder("planted", tuple(places)))


def _bits_left(chain: Chain) -> Chain:
    return replace(chain, bits=None)


def _no_last_step(chain: Chain) -> Chain:
    """Only where the shape is the same without it."""
    return chain.without(len(chain.steps) - 1) if chain.steps else chain


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (_codes_swapped, {"gate_up_weights_hopper", "down_weights_hopper"}),
        (_two_bits_swapped, {"gate_up_weights_hopper", "down_weights_hopper"}),
        (_bits_left, {"gate_up_weights_hopper", "down_weights_hopper"}),
        (
            _no_last_step,
            {
                "gate_up_weights_hopper",
                "down_weights_hopper",
                "gate_up_scales_hopper_warps8",
                "down_scales_hopper_warps8",
            },
        ),
    ],
)
def test_a_planted_fault_differs_from_the_golden_bytes(
    change, wrong, package_bytes
) -> None:
    found = set(differences(changed(TRITON_HOPPER, change), package_bytes))
    # Rank 3 of 4 of s2 has no lanes: its bytes are padding whatever the order.
    cases = [f"{c}_tp{tp}_r{r}" for c, tp, r in SMALL_RANKS if (c, r) != ("s2", 3)]
    assert {f"{case}_{name}" for case in cases for name in wrong} == found


def test_four_and_eight_warps_differ_in_their_scales_only() -> None:
    config = SMALL["s2"]
    weights = layer(config)
    eight = TRITON_HOPPER.expected(weights, config, WHOLE)
    four = TRITON_HOPPER_WARPS4.expected(weights, config, WHOLE)
    same = {name for name in eight if torch.equal(eight[name], four[name])}
    assert {"gate_up_weights", "gate_up_bias", "down_weights", "down_bias"} == same


@all_layouts
@repeatable
@given(data=st.data(), config=configs)
def test_restore_gives_the_rank_s_part_of_the_checkpoint(layout, data, config) -> None:
    weights = layer(config)
    tp = data.draw(st.integers(1, 4), label="tp")
    rank = data.draw(st.integers(0, tp - 1), label="rank")
    shard = layout.aligned(Shard(tp_size=tp, tp_rank=rank))
    prepared = PreparedWeights(
        tensors=layout.expected(weights, config, shard),
        layout=layout.name,
        config=config,
        shard=shard,
        valid_hidden=config.hidden,
        valid_intermediate=len(shard.intermediate_range(config)),
    )
    found = layout.restore(prepared).tensors()
    part = shard_weights(weights, config, shard).tensors()
    del found["router_weight"], part["router_weight"]
    part.pop("router_bias", None)
    assert part.keys() == found.keys()
    for name, tensor in part.items():
        whole = found[name].reshape(tensor.shape)
        if name == "down_bias":  # bias / 3 is rounded in float32
            torch.testing.assert_close(tensor.double(), whole.double())
        else:
            assert torch.equal(tensor.float(), whole.float())


def test_padding_stays_in_words_of_its_own() -> None:
    """Else a kernel would read a code of the padding beside one of the weights."""
    config = MoEConfig(hidden=96, intermediate=32 * 5, experts=1, top_k=1)
    for name in ("gate_up_weights", "down_weights"):
        index = TRITON_HOPPER.maps(config, WHOLE)[name].index
        of_word = (index == PADDING).unflatten(-1, (-1, 4)).float().mean(dim=-1)
        assert {0, 1} == set(of_word.flatten().tolist())
