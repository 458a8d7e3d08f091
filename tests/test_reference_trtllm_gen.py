"""``trtllm_gen.v1``: against bytes and index vectors that third-party code made."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from mxmoe.reference.errors import BadInput
from mxmoe.reference.layouts import FLASHINFER
from mxmoe.reference.layouts import LAYOUTS
from mxmoe.reference.layouts import PADDING
from mxmoe.reference.layouts import TRTLLM_GEN
from mxmoe.reference.layouts import TRTLLM_GEN_TILE64
from mxmoe.reference.layouts import Chain
from mxmoe.reference.layouts import steps
from mxmoe.reference.sharding import shard_weights
from mxmoe.reference.types import GPT_OSS_20B
from mxmoe.reference.types import WHOLE
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import PreparedWeights
from mxmoe.reference.types import Shard

DIGESTS = json.loads(
    (
        Path(__file__).parents[1] / "conformance/golden/trtllm_gen_sha256.json"
    ).read_text()
)
# Names of the golden files -> names of the layout.
NAMES = {
    "fc1_w": "fc1_weights",
    "fc1_s": "fc1_scales",
    "fc1_b": "fc1_bias",
    "fc2_w": "fc2_weights",
    "fc2_s": "fc2_scales",
    "fc2_b": "fc2_bias",
}
ONE_EXPERT = MoEConfig(hidden=2880, intermediate=2880, experts=1, top_k=1)
RANKS = [("s1", 1, 0), ("s2", 2, 0), ("s2", 2, 1)]

repeatable = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def golden_layer(golden: dict[str, np.ndarray], name: str) -> ExpertWeights:
    """The input of the golden case `name`; nothing was routed there."""

    def tensor(field: str) -> torch.Tensor:
        found = torch.from_numpy(golden[f"e2e_{name}_in_{field}"])
        return found.view(torch.bfloat16) if field.endswith("bias") else found

    e, h, *_ = golden[f"e2e_{name}_in_down_proj_blocks"].shape
    return ExpertWeights(
        gate_up_blocks=tensor("gate_up_proj_blocks"),
        gate_up_scales=tensor("gate_up_proj_scales"),
        gate_up_bias=tensor("gate_up_proj_bias"),
        down_blocks=tensor("down_proj_blocks"),
        down_scales=tensor("down_proj_scales"),
        down_bias=tensor("down_proj_bias"),
        router_weight=torch.zeros(e, h),
        router_bias=torch.zeros(e),
    )


def config_of(weights: ExpertWeights) -> MoEConfig:
    e, h, groups, _ = weights.down_blocks.shape
    return MoEConfig(hidden=h, intermediate=32 * groups, experts=e, top_k=1)


def generated(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """The byte generator that conformance/golden/README.md describes."""
    n = np.arange(np.prod(shape), dtype=np.uint64)
    x = (n * 2654435761 + seed * 0x9E3779B1) & 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & 0xFFFFFFFF
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & 0xFFFFFFFF
    return ((x ^ (x >> 16)) & 0xFF).astype(np.uint8).reshape(shape)


@pytest.fixture(scope="module")
def gpt_oss_expert() -> ExpertWeights:
    """One expert of gpt-oss width, from that generator."""

    def blocks(shape: tuple[int, ...], seed: int) -> torch.Tensor:
        return torch.from_numpy(generated(shape, seed))

    def bias(shape: tuple[int, ...], seed: int) -> torch.Tensor:
        return ((blocks(shape, seed).float() - 128) / 16).bfloat16()

    return ExpertWeights(
        gate_up_blocks=blocks((1, 5760, 90, 16), 1),
        gate_up_scales=blocks((1, 5760, 90), 2),
        gate_up_bias=bias((1, 5760), 3),
        down_blocks=blocks((1, 2880, 90, 16), 4),
        down_scales=blocks((1, 2880, 90), 5),
        down_bias=bias((1, 2880), 6),
        router_weight=torch.zeros(1, 2880),
        router_bias=torch.zeros(1),
    )


@pytest.mark.parametrize(("name", "tp", "rank"), RANKS)
@pytest.mark.parametrize("tensor", NAMES)
def test_bytes_are_those_of_the_engine(golden, name, tp, rank, tensor) -> None:
    weights = golden_layer(golden, name)
    shard = Shard(tp_size=tp, tp_rank=rank)
    found = TRTLLM_GEN.expected_tensor(
        NAMES[tensor], weights, config_of(weights), shard
    )
    expected = golden[f"e2e_{name}_tp{tp}_r{rank}_{tensor}"]
    assert (expected.dtype, expected.shape) == (found.numpy().dtype, found.shape)
    assert expected.tobytes() == found.numpy().tobytes()


@pytest.mark.parametrize("rank", DIGESTS["gptoss_layer_E1_sha256"])
def test_a_gpt_oss_expert_has_the_engines_digests(gpt_oss_expert, rank) -> None:
    expected = DIGESTS["gptoss_layer_E1_sha256"][rank]
    tp_size, tp_rank = (int(word.strip("tpr")) for word in rank.split("_"))
    shard = TRTLLM_GEN.aligned(Shard(tp_size=tp_size, tp_rank=tp_rank))
    found = TRTLLM_GEN.expected(gpt_oss_expert, ONE_EXPERT, shard)
    for short, name in NAMES.items():
        assert expected["shapes"][short] == list(found[name].shape)
        digest = hashlib.sha256(found[name].numpy().tobytes()).hexdigest()
        assert expected[short] == digest, name
    lanes = shard.intermediate_range(ONE_EXPERT)
    assert expected["valid_intermediate"] == len(lanes)


def run(step: steps.Step, index: torch.Tensor) -> list[int]:
    return step.apply(index).flatten().tolist()


@pytest.mark.parametrize("rows", [64, 128, 256, 512, 1536, 5888])
def test_fc1_rows_are_in_the_engines_order(golden, rows) -> None:
    order = steps.row_shuffle(32).apply(
        steps.gated_interleave().apply(torch.arange(rows))
    )
    assert golden[f"perm_fc1_tile128_{rows}"].tolist() == order.tolist()


@pytest.mark.parametrize("rows", [32, 128, 256, 2944])
def test_fc2_rows_are_in_the_engines_order(golden, rows) -> None:
    found = run(steps.row_shuffle(32), torch.arange(rows))
    assert golden[f"perm_fc2_tile128_{rows}"].tolist() == found


@pytest.mark.parametrize("tile", [8, 64])
def test_smaller_epilogue_tiles_shuffle_16_rows(golden, tile) -> None:
    shuffle = steps.row_shuffle(steps.shuffle_block(tile))
    rows = torch.arange(256)
    assert golden[f"perm_fc2_tile{tile}_256"].tolist() == run(shuffle, rows)
    interleaved = steps.gated_interleave().apply(rows)
    assert golden[f"perm_fc1_tile{tile}_256"].tolist() == run(shuffle, interleaved)


def test_gated_interleave_is_the_engines(golden) -> None:
    found = run(steps.gated_interleave(), torch.arange(256))
    assert golden["perm_gated_interleave_256"].tolist() == found


@pytest.mark.parametrize("shape", ["128x4", "128x8", "256x4", "256x12", "384x16"])
def test_scale_swizzle_is_the_engines(golden, shape) -> None:
    rows, columns = map(int, shape.split("x"))
    source = torch.arange(rows * columns).reshape(rows, columns)
    found = run(steps.scale_swizzle(), source)
    assert (golden[f"swz_srcplus1_{shape}"] - 1).tolist() == found


@pytest.mark.parametrize("shape", ["1x1", "5x3", "127x4", "129x5", "200x6"])
def test_padded_scale_swizzle_is_the_engines(golden, shape) -> None:
    """Rows padded to 128 and columns to 4 beforehand."""
    rows, columns = map(int, shape.split("x"))
    index = torch.arange(rows * columns).reshape(rows, columns)
    for step in (
        steps.pad("rows", 0, rows, -rows % 128 + rows),
        steps.pad("K", 1, columns, -columns % 4 + columns),
        steps.scale_swizzle(),
    ):
        index = step.apply(index)
    assert (golden[f"swz_srcplus1_{shape}"] - 1).tolist() == index.flatten().tolist()


def drawn(data: st.DataObject) -> tuple[MoEConfig, Shard]:
    """Any shape and rank, in few enough blocks to be quick."""
    ep = data.draw(st.sampled_from([1, 2]), label="ep")
    tp = data.draw(st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 16]), label="tp")
    config = MoEConfig(
        hidden=32 * data.draw(st.integers(1, 20), label="h/32"),
        intermediate=32 * data.draw(st.integers(1, 20), label="i/32"),
        experts=2,
        top_k=1,
        has_bias=data.draw(st.booleans(), label="bias"),
    )
    tp_rank = data.draw(st.integers(0, tp - 1), label="rank")
    ep_rank = data.draw(st.integers(0, ep - 1), label="ep rank")
    return config, Shard(tp_size=tp, tp_rank=tp_rank, ep_size=ep, ep_rank=ep_rank)


def random_layer(config: MoEConfig) -> ExpertWeights:
    """No byte is 0, so that padding can be told from all of them."""
    generator = torch.Generator().manual_seed(0)
    e, h, i = config.experts, config.hidden, config.intermediate

    def blocks(*shape: int) -> torch.Tensor:
        return torch.randint(1, 256, shape, generator=generator, dtype=torch.uint8)

    def bias(*shape: int) -> torch.Tensor | None:
        values = torch.randn(shape, generator=generator).bfloat16()
        return values if config.has_bias else None

    return ExpertWeights(
        gate_up_blocks=blocks(e, 2 * i, h // 32, 16),
        gate_up_scales=blocks(e, 2 * i, h // 32),
        gate_up_bias=bias(e, 2 * i),
        down_blocks=blocks(e, h, i // 32, 16),
        down_scales=blocks(e, h, i // 32),
        down_bias=bias(e, h),
        router_weight=torch.zeros(e, h),
        router_bias=None,
    )


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@repeatable
@given(data=st.data())
def test_restore_undoes_every_step(layout, data) -> None:
    config, shard = drawn(data)
    shard = layout.aligned(shard)
    weights = random_layer(config)
    prepared = PreparedWeights(
        tensors=layout.expected(weights, config, shard),
        layout=layout.name,
        config=config,
        shard=shard,
        valid_hidden=config.hidden,
        valid_intermediate=len(shard.intermediate_range(config)),
    )
    found = layout.restore(prepared).tensors()
    for name, tensor in shard_weights(weights, config, shard).tensors().items():
        if not name.startswith("router"):
            # 1/tp of a bias, times tp, is rounded once in float32.
            assert torch.allclose(found[name].double(), tensor.double(), rtol=2e-7)
            assert tensor.dtype != torch.uint8 or torch.equal(found[name], tensor)


@repeatable
@given(data=st.data())
def test_closed_forms_of_the_specification_hold(data) -> None:
    """fc1 and fc2 weights, entry by entry, from the formulas without any step."""
    config, shard = drawn(data)
    shard = TRTLLM_GEN.aligned(shard)
    maps = TRTLLM_GEN.maps(config, shard)
    h, i, padded = config.hidden, config.intermediate, shard.padded_intermediate(config)
    lane0 = shard.tp_rank * padded
    row = data.draw(st.integers(0, 2 * padded - 1), label="fc1 row")
    column = data.draw(st.integers(0, -(-h // 512) * 256 - 1), label="fc1 byte")
    b, q, s = row // 32, row % 32 // 8, row % 8
    half, lane = q % 2, lane0 + 16 * b + 2 * s + q // 2
    inside = lane < i and column < h // 2
    expected = (2 * lane + 1 - half) * (h // 2) + column if inside else PADDING
    assert expected == maps["fc1_weights"].source_at((row, column))
    row = data.draw(st.integers(0, -(-h // 128) * 128 - 1), label="fc2 row")
    column = data.draw(st.integers(0, padded // 2 - 1), label="fc2 byte")
    j = row // 32 * 32 + 4 * (row % 8) + row % 32 // 8
    inside = j < h and lane0 // 2 + column < i // 2
    expected = j * (i // 2) + lane0 // 2 + column if inside else PADDING
    assert expected == maps["fc2_weights"].source_at((row, column))


@pytest.mark.parametrize(
    "layout", [TRTLLM_GEN, TRTLLM_GEN_TILE64], ids=lambda x: x.name
)
@repeatable
@given(data=st.data())
def test_weights_scales_and_bias_agree_on_rows(layout, data) -> None:
    """Row n of the weights, of the unswizzled scales, and entry n of the bias."""
    config, shard = drawn(data)
    shard = layout.aligned(shard)
    chains = layout.chains(config, shard)
    for fc, columns in (("fc1", config.hidden), ("fc2", config.intermediate)):
        by_row = []
        for kind in ("weights", "scales") + ("bias",) * config.has_bias:
            chain = chains[f"{fc}_{kind}"]
            assert isinstance(chain, Chain)
            if kind == "scales":
                assert "scale swizzle 128x4" == chain.steps[-1].name
                chain = chain.without(len(chain.steps) - 1)
            index = chain.index_map(config).index
            if kind != "bias":
                runs = columns // 32
                index = torch.where(index == PADDING, PADDING, index // runs)
                index = index.amax(dim=1)
            by_row.append(index.tolist())
        # A rank without lanes sees no weights, but every row of the down bias.
        if fc == "fc1" or shard.intermediate_range(config):
            assert all(rows == by_row[0] for rows in by_row)


def test_empty_ranks_are_all_padding() -> None:
    config = MoEConfig(hidden=96, intermediate=320, experts=2, top_k=1)
    shard = TRTLLM_GEN.aligned(Shard(tp_size=4, tp_rank=3))
    assert 0 == len(shard.intermediate_range(config))
    found = TRTLLM_GEN.expected(random_layer(config), config, shard)
    for name in ("fc1_weights", "fc1_scales", "fc1_bias", "fc2_weights", "fc2_scales"):
        assert found[name].numel() > 0
        assert not found[name].any()
    assert found["fc2_bias"].any()


@pytest.mark.parametrize(("tp", "rank", "rows", "valid"), [
    (1, 0, 5888, 2880), (8, 0, 768, 384), (8, 7, 768, 192),
])  # fmt: skip
def test_gpt_oss_has_the_shapes_of_the_pull_request(tp, rank, rows, valid) -> None:
    """NVIDIA/TensorRT-LLM#13867 names fc1 and the valid lanes of these ranks."""
    shard = TRTLLM_GEN.aligned(Shard(tp_size=tp, tp_rank=rank))
    assert (rows, 1536) == TRTLLM_GEN.maps(GPT_OSS_20B, shard)["fc1_weights"].shape
    assert valid == len(shard.intermediate_range(GPT_OSS_20B))


def test_flashinfer_pads_hidden_once_for_both_gemms() -> None:
    maps = FLASHINFER.maps(GPT_OSS_20B, WHOLE)
    rows, _ = maps["fc2_weights"].shape
    _, k_bytes = maps["fc1_weights"].shape
    assert 2944 == rows == 2 * k_bytes
    ours = TRTLLM_GEN.maps(GPT_OSS_20B, WHOLE)
    assert torch.equal(ours["fc2_scales"].index, maps["fc2_scales"].index)


def test_swiglu_parameters_are_per_expert_of_the_rank() -> None:
    config = MoEConfig(hidden=64, intermediate=64, experts=6, top_k=1)
    found = TRTLLM_GEN.expected(random_layer(config), config, Shard(ep_size=3))
    for name, value in (("alpha", 1.702), ("beta", 1.0), ("limit", 7.0)):
        tensor = found[f"swiglu_{name}"]
        assert torch.equal(torch.full((2,), value), tensor)


@pytest.mark.parametrize("alignment", [0, -32, 48, 128.0, True])
def test_an_alignment_is_a_positive_number_of_blocks(alignment) -> None:
    with pytest.raises(BadInput, match="alignment: expected a multiple of 32"):
        Shard(alignment=alignment)
