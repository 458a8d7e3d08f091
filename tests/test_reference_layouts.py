"""`Shard` arithmetic, `sharding` and `layouts`: which rank holds which byte."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import example
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from mxmoe.reference.layouts import CHECKPOINT_ORDER
from mxmoe.reference.layouts import LAYOUTS
from mxmoe.reference.layouts import PADDING
from mxmoe.reference.layouts import IndexMap
from mxmoe.reference.sharding import shard_weights
from mxmoe.reference.types import GPT_OSS_20B
from mxmoe.reference.types import WHOLE
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import PreparedWeights
from mxmoe.reference.types import Shard
from mxmoe.reference.types import expected_tensors

TRTLLM_ALIGNMENT = 128
EXPERT_TENSORS = ("gate_up_blocks", "gate_up_scales", "down_blocks", "down_scales")
BIASES = ("gate_up_bias", "down_bias")

repeatable = settings(max_examples=100, deadline=None, derandomize=True, database=None)
whole_blocks = st.integers(1, 200).map(lambda blocks: 32 * blocks)
alignments = st.sampled_from([32, 64, 128, 256, 512])
configs = st.builds(
    MoEConfig,
    hidden=st.sampled_from([32, 64]),
    intermediate=st.integers(1, 9).map(lambda blocks: 32 * blocks),
    experts=st.sampled_from([1, 2, 4, 6]),
    top_k=st.just(1),
    has_bias=st.booleans(),
)


def layer(config: MoEConfig) -> ExpertWeights:
    """Random bytes of every kind; layouts do not look at values."""
    generator = torch.Generator().manual_seed(0)
    tensors = dict.fromkeys((*BIASES, "router_bias"))
    for name, (shape, dtype) in expected_tensors(config).items():
        tensors[name] = (
            torch.randint(256, shape, generator=generator, dtype=dtype)
            if dtype == torch.uint8
            else torch.randn(shape, generator=generator).to(torch.bfloat16)
        )
    return ExpertWeights(**tensors)


def all_ranks(tp: int, ep: int) -> list[Shard]:
    """Every rank of a tp by ep machine."""
    return [
        Shard(tp_size=tp, tp_rank=r, ep_size=ep, ep_rank=q)
        for r, q in itertools.product(range(tp), range(ep))
    ]


def ep_sizes(config: MoEConfig) -> st.SearchStrategy[int]:
    """The divisors of the number of experts."""
    divisors = [n for n in range(1, config.experts + 1) if config.experts % n == 0]
    return st.sampled_from(divisors)


def drawn_ranks(data: st.DataObject, config: MoEConfig) -> list[Shard]:
    """All ranks of a drawn machine."""
    tp = data.draw(st.integers(1, 9), label="tp")
    return all_ranks(tp, data.draw(ep_sizes(config), label="ep"))


def restored(
    tensors: dict[str, torch.Tensor], config: MoEConfig, shard: Shard
) -> ExpertWeights:
    """What our consumer reads from the prepared tensors of one rank."""
    prepared = PreparedWeights(
        tensors=tensors,
        layout=CHECKPOINT_ORDER.name,
        config=config,
        shard=shard,
        valid_hidden=config.hidden,
        valid_intermediate=len(shard.intermediate_range(config)),
    )
    return CHECKPOINT_ORDER.restore(prepared)


@pytest.mark.parametrize(
    ("tp", "padded", "lanes"),
    [
        (1, 2944, [2880]),
        (2, 1536, [1536, 1344]),
        (3, 1024, [1024] * 2 + [832]),
        (4, 768, [768] * 3 + [576]),
        (5, 640, [640] * 4 + [320]),
        (6, 512, [512] * 5 + [320]),
        (8, 384, [384] * 7 + [192]),
        (16, 256, [256] * 11 + [64] + [0] * 4),
        (32, 128, [128] * 22 + [64] + [0] * 9),
    ],
)
def test_gpt_oss_is_cut_as_trtllm_gen_cuts_it(tp, padded, lanes) -> None:
    """P from spec/trtllm_gen_layout.md section 4, valid lanes from 10 and 11."""
    ranks = [
        Shard(tp_size=tp, tp_rank=r, alignment=TRTLLM_ALIGNMENT) for r in range(tp)
    ]
    sizes = {s.padded_intermediate(GPT_OSS_20B) for s in ranks}
    assert {padded} == sizes
    ranges = [s.intermediate_range(GPT_OSS_20B) for s in ranks]
    assert lanes == [len(r) for r in ranges]
    assert [min(2880, r * padded) for r in range(tp)] == [r.start for r in ranges]


def test_gpt_oss_in_blocks_of_32_is_padded_to_whole_blocks_for_each_rank() -> None:
    """2880 = 90 blocks: 45 a rank at tp=2, 22.5 at tp=4 and so 23."""
    sizes = [Shard(tp_size=tp).padded_intermediate(GPT_OSS_20B) for tp in (1, 2, 4, 8)]
    assert [2880, 1440, 736, 384] == sizes


@repeatable
@given(i=whole_blocks, tp=st.integers(1, 64), alignment=alignments)
@example(i=32 * 41, tp=40, alignment=32)  # one block more than ranks
def test_ranks_cover_the_lanes_in_order_and_once(i, tp, alignment) -> None:
    config = MoEConfig(hidden=32, intermediate=i, experts=1, top_k=1)
    ranks = [Shard(tp_size=tp, tp_rank=r, alignment=alignment) for r in range(tp)]
    ranges = [s.intermediate_range(config) for s in ranks]
    assert list(range(i)) == [lane for lanes in ranges for lane in lanes]


@repeatable
@given(i=whole_blocks, tp=st.integers(1, 64), alignment=alignments)
@example(i=32 * 41, tp=40, alignment=32)  # one block more than ranks
def test_padding_is_the_fewest_whole_tiles_that_hold_an_equal_share(
    i, tp, alignment
) -> None:
    """up(up(i, lcm(a, tp)) / tp, a) is a * ceil(i / (a * tp)), whatever the gcd."""
    config = MoEConfig(hidden=32, intermediate=i, experts=1, top_k=1)
    tiles = math.ceil(Fraction(i, alignment * tp))
    padded = Shard(tp_size=tp, alignment=alignment).padded_intermediate(config)
    assert alignment * tiles == padded


@repeatable
@given(i=whole_blocks, tp=st.integers(1, 64), alignment=alignments)
def test_no_block_straddles_two_ranks(i, tp, alignment) -> None:
    config = MoEConfig(hidden=32, intermediate=i, experts=1, top_k=1)
    for r in range(tp):
        shard = Shard(tp_size=tp, tp_rank=r, alignment=alignment)
        lanes = shard.intermediate_range(config)
        assert (0, 0) == (lanes.start % 32, lanes.stop % 32)


@repeatable
@given(data=st.data(), config=configs)
def test_a_rank_is_a_plain_slice_of_the_checkpoint(data, config) -> None:
    """By the sharding module and by the layout, both against slices written here."""
    weights = layer(config)
    shard = data.draw(st.sampled_from(drawn_ranks(data, config)), label="shard")
    each = config.experts // shard.ep_size
    share = 32 * math.ceil(Fraction(config.intermediate, 32 * shard.tp_size))
    start, stop = shard.tp_rank * share, (shard.tp_rank + 1) * share
    e = slice(shard.ep_rank * each, (shard.ep_rank + 1) * each)
    expected = {
        "gate_up_blocks": weights.gate_up_blocks[e, 2 * start : 2 * stop],
        "gate_up_scales": weights.gate_up_scales[e, 2 * start : 2 * stop],
        "down_blocks": weights.down_blocks[e, :, start // 32 : stop // 32],
        "down_scales": weights.down_scales[e, :, start // 32 : stop // 32],
    }
    if config.has_bias:
        expected["gate_up_bias"] = weights.gate_up_bias[e, 2 * start : 2 * stop]
        expected["down_bias"] = weights.down_bias[e]
    part = shard_weights(weights, config, shard).tensors()
    prepared = CHECKPOINT_ORDER.expected(weights, config, shard)
    assert expected.keys() == prepared.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, prepared[name])
        assert torch.equal(tensor, part[name])
        assert tensor.dtype == prepared[name].dtype


def test_a_rank_keeps_the_whole_router() -> None:
    config = MoEConfig(hidden=64, intermediate=96, experts=4, top_k=2)
    weights = layer(config)
    part = shard_weights(weights, config, Shard(tp_size=2, ep_size=2))
    assert weights.router_weight is part.router_weight
    assert weights.router_bias is part.router_bias


def test_sharding_copies_no_weights() -> None:
    config = MoEConfig(hidden=64, intermediate=96, experts=4, top_k=2)
    weights = layer(config)
    part = shard_weights(weights, config, Shard(tp_size=2, tp_rank=1)).tensors()
    for name, tensor in weights.tensors().items():
        storage = tensor.untyped_storage().data_ptr()
        assert storage == part[name].untyped_storage().data_ptr()


@repeatable
@given(data=st.data(), config=configs)
def test_restore_is_the_inverse_of_expected(data, config) -> None:
    weights = layer(config)
    shard = data.draw(st.sampled_from(drawn_ranks(data, config)), label="shard")
    tensors = CHECKPOINT_ORDER.expected(weights, config, shard)
    found = restored(tensors, config, shard)
    part = shard_weights(weights, config, shard)
    for name in (*EXPERT_TENSORS, *(BIASES if config.has_bias else ())):
        assert torch.equal(getattr(part, name), getattr(found, name))
    assert config.has_bias or (found.gate_up_bias, found.down_bias) == (None, None)


@repeatable
@given(config=configs)
def test_the_whole_layer_is_the_checkpoint_byte_for_byte(config) -> None:
    weights = layer(config)
    prepared = CHECKPOINT_ORDER.expected(weights, config, WHOLE)
    for name, tensor in prepared.items():
        assert torch.equal(getattr(weights, name), tensor)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@repeatable
@given(data=st.data(), config=configs)
def test_over_all_ranks_every_byte_appears_exactly_once(layout, data, config) -> None:
    """The down bias instead once on each tensor-parallel rank, as 1/tp of it.

    Where a layout moves bits as well, that is within words and loses none (see
    test_reference_triton_kernels), so whole bytes are counted before it.
    """
    ranks = drawn_ranks(data, config)
    counts = {}
    for name in (*EXPERT_TENSORS, *(BIASES if config.has_bias else ())):
        shape, _ = expected_tensors(config)[name]
        counts[name] = torch.zeros(shape, dtype=torch.int64).flatten(1)
    for shard in ranks:
        experts = shard.expert_range(config)
        maps = layout.maps(config, shard).values()
        assert sorted(counts) == sorted(found.source for found in maps)
        for found in maps:
            count = counts[found.source]
            runs = found.index[found.index != PADDING]
            taken = torch.bincount(runs, minlength=count.shape[1] // found.width)
            count[experts.start : experts.stop] += taken.repeat_interleave(found.width)
    for name, count in counts.items():
        times = ranks[0].tp_size if name == "down_bias" else 1
        assert {times} == set(count.flatten().tolist())


def test_padding_entries_become_zero_in_the_dtype_of_the_source() -> None:
    index = torch.tensor([[2, PADDING], [0, 2]])
    index_map = IndexMap(source="down_scales", index=index)
    source = torch.tensor([[[7, 8, 9]], [[1, 2, 3]]], dtype=torch.uint8)
    found = index_map.gather(source)
    assert [[[9, 0], [7, 9]], [[3, 0], [1, 3]]] == found.tolist()
    assert torch.uint8 == found.dtype


@pytest.mark.parametrize("offset", [0, 2, 8, 16])
@pytest.mark.parametrize("name", LAYOUTS)
def test_gathering_does_not_depend_on_where_the_source_lies_in_memory(
    name: str, offset: int
) -> None:
    """Blocks move as words of 16 bytes; tensors in a file start anywhere."""
    config = MoEConfig(hidden=64, intermediate=96, experts=2, top_k=1)
    weights, shard = layer(config), Shard(tp_size=2, tp_rank=1)
    for index_map in LAYOUTS[name].maps(config, shard).values():
        source = weights.tensors()[index_map.source]
        memory = torch.empty(offset + source.nbytes + 16, dtype=torch.uint8)
        moved = memory[offset : offset + source.nbytes].view(source.dtype)
        moved = moved.reshape(source.shape).copy_(source)
        runs = source[1].reshape(-1, index_map.width)
        naive = runs[index_map.index.clamp(min=0)]
        naive[index_map.index == PADDING] = 0
        naive = naive.flatten(-2).to(index_map.dtype or source.dtype)
        found = index_map.gather_expert(moved[1])
        assert torch.equal(index_map.plain(found), naive / index_map.divisor)
        assert found.dtype == (index_map.dtype or source.dtype)
