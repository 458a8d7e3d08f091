"""The trtllm-gen consumer: right on right bytes, wrong on every wrong preparation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch

from mxmoe.conformance.bounds.compare_numbers import compare_numbers
from mxmoe.conformance.bounds.propagated import Judged
from mxmoe.conformance.bounds.propagated import judge_rank
from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.designed import CaseData
from mxmoe.conformance.cases.designed import make_case_data
from mxmoe.kernels.trtllm_gen import emulated
from mxmoe.kernels.trtllm_gen.addressing import physical_rows
from mxmoe.kernels.trtllm_gen.addressing import scale_offsets
from mxmoe.kernels.trtllm_gen.decoded import load
from mxmoe.kernels.trtllm_gen.hidden_pad import PadBuffer
from mxmoe.kernels.trtllm_gen.hidden_pad import pad_hidden_states
from mxmoe.reference.layouts import FLASHINFER
from mxmoe.reference.layouts import TRTLLM_GEN
from mxmoe.reference.layouts import TRTLLM_GEN_TILE64
from mxmoe.reference.layouts import Chain
from mxmoe.reference.layouts import Layout
from mxmoe.reference.moe import moe
from mxmoe.reference.routing import route
from mxmoe.reference.sharding import shard_weights
from mxmoe.reference.types import ARITHMETIC
from mxmoe.reference.types import WHOLE
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import PreparedWeights
from mxmoe.reference.types import Routing
from mxmoe.reference.types import Shard

# Neither dimension is a multiple of 128: every kind of padding occurs.
SMALL = MoEConfig(hidden=160, intermediate=224, experts=8, top_k=4)
# At tp 4 the second of its ranks has 96 lanes, the last two have none.
RANKS = (
    WHOLE,
    Shard(tp_size=2, tp_rank=0),
    Shard(tp_size=2, tp_rank=1),
    Shard(tp_size=4, tp_rank=1),
    Shard(tp_size=4, tp_rank=3),
    Shard(ep_size=4, ep_rank=3),
    Shard(tp_size=2, tp_rank=1, ep_size=2, ep_rank=1),
)
Tensors = dict[str, torch.Tensor]


@cache
def case_data() -> CaseData:
    return make_case_data(Case(config=SMALL, tokens=17, hot=("no_expert",)))


def wrap(tensors: Tensors, shard: Shard = WHOLE) -> PreparedWeights:
    shard = TRTLLM_GEN.aligned(shard)
    return PreparedWeights(
        tensors=tensors,
        layout=TRTLLM_GEN.name,
        config=SMALL,
        shard=shard,
        valid_hidden=SMALL.hidden,
        valid_intermediate=len(shard.intermediate_range(SMALL)),
    )


def prepared(layout: Layout = TRTLLM_GEN, shard: Shard = WHOLE) -> PreparedWeights:
    return wrap(layout.expected(case_data().weights, SMALL, shard), shard)


@cache
def judged(shard: Shard = WHOLE) -> Judged:
    data, shard = case_data(), TRTLLM_GEN.aligned(shard)
    return judge_rank(
        shard_weights(data.weights, SMALL, shard),
        SMALL,
        data.hidden_states,
        data.routing,
        shard=shard,
        arithmetic=ARITHMETIC["w4a16_fp32acc"],
    )


def output_is_within(weights: PreparedWeights) -> bool:
    data = case_data()
    out = emulated.forward(weights, data.hidden_states, data.routing)
    expected = judged()
    truth, allowed = expected.truth["combine"], expected.allowed["combine"]
    return compare_numbers(out, truth, allowed).within


@pytest.mark.parametrize("shard", RANKS, ids=Shard.label)
@pytest.mark.parametrize(
    ("layout", "tile"),
    [(TRTLLM_GEN, 128), (TRTLLM_GEN_TILE64, 64), (FLASHINFER, 128)],
    ids=lambda value: getattr(value, "name", None),
)
def test_every_stage_stays_within_the_bound(
    layout: Layout, tile: int, shard: Shard
) -> None:
    data, expected = case_data(), judged(shard)
    found = emulated.trace(
        prepared(layout, shard), data.hidden_states, data.routing, epilogue_tile=tile
    )
    assert list(found) == ["gate_up", "activation", "down", "combine"]
    for stage, tensor in found.items():
        truth, allowed = expected.truth[stage], expected.allowed[stage]
        assert tensor.shape == truth.shape, stage
        assert tensor.numel() == 0 or compare_numbers(tensor, truth, allowed).within


def test_physical_rows_follow_the_specification() -> None:
    """n = 32 b + 8 (2 (t mod 2) + half) + t div 2 for lane i = 16 b + t of fc1."""
    rows = physical_rows(256).tolist()
    for i in range(128):
        b, t = divmod(i, 16)
        for half in (0, 1):
            expected = 32 * b + 8 * (2 * (t % 2) + half) + t // 2
            assert rows[2 * i + half] == expected
    assert sorted(rows) == list(range(256))


def test_scales_lie_where_the_specification_says() -> None:
    offsets = scale_offsets(256, 12)
    for r, c in ((0, 0), (1, 0), (31, 3), (32, 4), (127, 11), (128, 0), (255, 11)):
        tile = (r // 128) * 128 * 12 + (c // 4) * 512
        in_tile = (r % 32) * 16 + (r % 128) // 32 * 4 + c % 4
        assert offsets[r, c] == tile + in_tile
    assert offsets.flatten().sort().values.tolist() == list(range(256 * 12))


def test_a_bias_goes_to_the_physical_row_that_it_stands_in() -> None:
    """Whatever row the weights there came from: this is what made the bug visible."""
    data, weights = case_data(), prepared()
    tensors = dict(weights.tensors)
    row = int(physical_rows(512)[2 * 77 + 1])  # the gate of lane 77
    bias = tensors["fc1_bias"]
    assert isinstance(bias, torch.Tensor)
    tensors["fc1_bias"] = bias.clone()
    tensors["fc1_bias"][:, row] += 64
    before, after = (
        emulated.trace(w, data.hidden_states, data.routing)["gate_up"]
        for w in (weights, wrap(tensors))  # type: ignore[arg-type]
    )
    served = (data.routing.ids >= 0)[..., None]
    columns = ((before != after) & served).flatten(0, 1).any(dim=0)
    assert columns.nonzero().flatten().tolist() == [2 * 77]


def without(name: str, step: str) -> Tensors:
    """The prepared tensors with one step of one chain forgotten."""
    weights = case_data().weights
    tensors = TRTLLM_GEN.expected(weights, SMALL, WHOLE)
    chain = TRTLLM_GEN.chains(SMALL, TRTLLM_GEN.aligned(WHOLE))[name]
    assert isinstance(chain, Chain)
    (at,) = (n for n, s in enumerate(chain.steps) if s.name == step)
    index_map = chain.without(at).index_map(SMALL)
    tensors[name] = index_map.gather(weights.tensors()[chain.source])
    return tensors


def fc1_from(stack: Callable[[torch.Tensor], torch.Tensor]) -> Tensors:
    """All of fc1 from rows [2i, ...] that `stack` puts in the place of [2P, ...]."""
    weights = case_data().weights
    tensors = TRTLLM_GEN.expected(weights, SMALL, WHOLE)
    rows = tensors["fc1_bias"].shape[1]
    logical = torch.arange(rows)
    stacked = logical % 2 * (rows // 2) + logical // 2
    offsets = scale_offsets(*tensors["fc1_scales"].shape[1:])
    sources = {
        "fc1_weights": weights.gate_up_blocks.flatten(2),
        "fc1_scales": weights.gate_up_scales,
        "fc1_bias": weights.gate_up_bias,
    }
    for name, source in sources.items():
        assert source is not None
        out = torch.zeros_like(tensors[name])
        for expert, found in zip(out, source, strict=True):
            row_major = torch.zeros_like(expert)
            columns = (slice(0, found.shape[1]),) if found.dim() == 2 else ()
            moved = stack(found)[stacked].to(expert.dtype)
            row_major[(physical_rows(rows), *columns)] = moved
            if name == "fc1_scales":
                expert.view(-1)[offsets.flatten()] = row_major.flatten()
            else:
                expert.copy_(row_major)
        tensors[name] = out
    return tensors


def padded_to_512(rows: torch.Tensor) -> torch.Tensor:
    extra = rows.new_zeros((512 - rows.shape[0], *rows.shape[1:]))
    return torch.cat((rows, extra))


def right(rows: torch.Tensor) -> torch.Tensor:
    halves = [padded_to_512(half)[:256] for half in (rows[1::2], rows[0::2])]
    return torch.cat(halves)


def kept_interleaved(rows: torch.Tensor) -> torch.Tensor:
    return padded_to_512(rows)


def padded_at_the_end(rows: torch.Tensor) -> torch.Tensor:
    return padded_to_512(torch.cat((rows[1::2], rows[0::2])))


def gate_over_up(rows: torch.Tensor) -> torch.Tensor:
    return right(rows).unflatten(0, (2, 256)).flip(0).flatten(0, 1)


FAULTS: dict[str, Callable[[], Tensors]] = {
    "fc1 bias not shuffled": lambda: without("fc1_bias", "row shuffle 32"),
    "fc1 bias not interleaved": lambda: without("fc1_bias", "gated interleave"),
    "fc2 bias not shuffled": lambda: without("fc2_bias", "row shuffle 32"),
    "fc1 scales not swizzled": lambda: without("fc1_scales", "scale swizzle 128x4"),
    "fc2 scales not swizzled": lambda: without("fc2_scales", "scale swizzle 128x4"),
    "fc1 scales not shuffled": lambda: without("fc1_scales", "row shuffle 32"),
    "fc2 weights not shuffled": lambda: without("fc2_weights", "row shuffle 32"),
    "gate and up kept interleaved": lambda: fc1_from(kept_interleaved),
    "padding at the end of 2P": lambda: fc1_from(padded_at_the_end),
    "gate over up": lambda: fc1_from(gate_over_up),
    "rows shuffled in blocks of 16": lambda: TRTLLM_GEN_TILE64.expected(
        case_data().weights, SMALL, WHOLE
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_preparation_leaves_the_bound(fault: str) -> None:
    assert not output_is_within(wrap(FAULTS[fault]()))


def test_the_right_preparation_made_as_the_faults_are_is_within() -> None:
    tensors = fc1_from(right)
    expected = TRTLLM_GEN.expected(case_data().weights, SMALL, WHOLE)
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    assert output_is_within(wrap(tensors))


def test_loaded_experts_give_the_same_bits() -> None:
    data, weights = case_data(), prepared()
    lazy, loaded = (
        emulated.forward(w, data.hidden_states, data.routing)
        for w in (weights, load(weights))
    )
    assert torch.equal(lazy, loaded)


def test_a_rank_without_lanes_gives_its_share_of_the_bias() -> None:
    data, shard = case_data(), Shard(tp_size=4, tp_rank=3)
    weights = prepared(shard=shard)
    assert weights.valid_intermediate == 0
    out = emulated.forward(weights, data.hidden_states, data.routing)
    bias = data.weights.down_bias
    assert bias is not None
    mix = torch.where(data.routing.ids >= 0, data.routing.weights, 0)
    shares = bias.float()[data.routing.ids.clamp(min=0).long()] / 4
    expected = torch.einsum("tk,tkh->th", mix, shares)
    assert torch.allclose(out.float(), expected, rtol=2**-8, atol=0)


def test_the_ranks_add_up_to_the_whole() -> None:
    """Tensor and expert parallel, 4 x 2 ranks, within the sum of their bounds."""
    data = case_data()
    total = torch.zeros(data.hidden_states.shape, dtype=torch.float64)
    allowed = torch.zeros_like(total)
    for tp_rank in range(4):
        for ep_rank in range(2):
            shard = Shard(tp_size=4, tp_rank=tp_rank, ep_size=2, ep_rank=ep_rank)
            weights = prepared(shard=shard)
            out = emulated.forward(weights, data.hidden_states, data.routing)
            total += out.double()
            allowed += judged(shard).allowed["combine"]
    truth = moe(data.weights, SMALL, data.hidden_states, data.routing)["combine"]
    assert compare_numbers(total, truth, allowed).within


def test_an_absent_expert_adds_nothing_whatever_its_weight() -> None:
    data, weights = case_data(), prepared()
    absent = data.routing.ids < 0
    assert absent.any()
    routing = Routing(
        data.routing.ids, torch.where(absent, torch.nan, data.routing.weights)
    )
    out = emulated.forward(weights, data.hidden_states, routing)
    plain = emulated.forward(weights, data.hidden_states, data.routing)
    assert torch.equal(out, plain)


def test_equal_logits_go_to_the_lowest_expert() -> None:
    logits = torch.tensor([[1.0, 3, 3, 1, 3, 0], [0, 0, 0, 0, 0, 0]])
    ids, weights = emulated.route(logits, 4)
    assert ids.tolist() == [[1, 2, 4, 0], [0, 1, 2, 3]]
    assert ids.dtype == torch.int32
    assert weights.dtype == torch.float32
    assert torch.allclose(weights.sum(dim=1), torch.ones(2))


def test_fused_routing_is_routing_and_then_the_experts() -> None:
    config = replace(SMALL, routed_scaling=2.5)
    data = case_data()
    weights = replace(prepared(), config=config)
    router = data.weights.router_weight, data.weights.router_bias
    out = emulated.forward_fused(weights, data.hidden_states, *router, 4)
    assert router[1] is not None
    logits = data.hidden_states.float() @ router[0].float().T + router[1].float()
    expected = route(logits, 4, routed_scaling=2.5)
    plain = Routing(expected.ids, expected.weights.float())
    again = emulated.forward(weights, data.hidden_states, plain)
    # The two may round a routing weight differently in its last bit.
    assert torch.allclose(out.float(), again.float(), rtol=2**-7, atol=2**-4)


def test_the_padding_of_a_poisoned_buffer_is_zero() -> None:
    hidden = torch.ones(3, 2880, dtype=torch.bfloat16)
    memory = torch.full((3, 3072), torch.nan, dtype=torch.bfloat16)
    padded = pad_hidden_states(hidden, 3072, memory)
    assert padded.data_ptr() == memory.data_ptr()
    assert (padded[:, 2880:] == 0).all()
    assert (padded[:, :2880] == 1).all()


def test_a_shared_buffer_keeps_nothing_of_the_call_before() -> None:
    buffer = PadBuffer()
    first = buffer.pad(torch.full((8, 512), torch.nan), 512)
    second = buffer.pad(torch.ones(5, 160), 512)
    assert second.data_ptr() == first.data_ptr()
    assert (second[:, :160] == 1).all()
    assert (second[:, 160:] == 0).all()


def test_a_poisoned_scale_of_the_padding_is_seen() -> None:
    """0 times NaN is NaN in the kernel: padding must hold finite scales."""
    tensors = dict(prepared().tensors)
    scales = tensors["fc1_scales"]
    assert isinstance(scales, torch.Tensor)
    columns = scale_offsets(*scales.shape[1:])[:, SMALL.hidden // 32 :]
    tensors["fc1_scales"] = poisoned = scales.clone()
    poisoned.flatten(1)[:, columns.flatten()] = 255
    assert not output_is_within(wrap(tensors))  # type: ignore[arg-type]
