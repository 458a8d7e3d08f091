"""`mxmoe.reference.moe` and `activation`: the layer against independent layers."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from mxmoe.reference.activation import activate
from mxmoe.reference.activation import split_halves
from mxmoe.reference.formats import decode
from mxmoe.reference.moe import moe
from mxmoe.reference.moe import moe_of_rank
from mxmoe.reference.routing import route
from mxmoe.reference.sharding import shard_weights
from mxmoe.reference.types import ARITHMETIC
from mxmoe.reference.types import FLOAT64
from mxmoe.reference.types import SILU
from mxmoe.reference.types import SWIGLU_OAI
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Routing
from mxmoe.reference.types import Shard
from mxmoe.reference.types import expected_tensors

TINY = MoEConfig(hidden=32, intermediate=64, experts=3, top_k=2)
GPT_OSS = MoEConfig(hidden=64, intermediate=96, experts=4, top_k=2)
NO_BIAS = MoEConfig(
    hidden=64, intermediate=96, experts=8, top_k=2, activation=SILU, has_bias=False
)
# Two sums of at most 97 terms in float64, 97 * 2**-53 each, and cancellation.
EXACT = 1e-13
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
CLASSES = list(ARITHMETIC.values())

classes = pytest.mark.parametrize("arithmetic", CLASSES, ids=lambda c: c.name)


def layer(config: MoEConfig, seed: int = 0) -> ExpertWeights:
    """Random bytes with scales 2**-6 to 2**-1, so that the clamps of SwiGLU bind."""
    generator = torch.Generator().manual_seed(seed)
    tensors = dict.fromkeys(("gate_up_bias", "down_bias", "router_bias"))
    for name, (shape, dtype) in expected_tensors(config).items():
        low, high = (121, 127) if name.endswith("scales") else (0, 256)
        tensors[name] = (
            torch.randint(low, high, shape, generator=generator, dtype=dtype)
            if dtype == torch.uint8
            else torch.randn(shape, generator=generator).to(torch.bfloat16)
        )
    return ExpertWeights(**tensors)


def batch(config: MoEConfig, tokens: int = 7) -> tuple[torch.Tensor, Routing]:
    """Hidden states in bfloat16, too small for float16 in lane 0, and a routing."""
    generator = torch.Generator().manual_seed(tokens)
    x = torch.randn(tokens, config.hidden, generator=generator).to(torch.bfloat16)
    x[:, 0] *= 2.0**-20
    logits = torch.randn(tokens, config.experts, generator=generator)
    return x, route(logits, config.top_k)


def assert_close(expected: torch.Tensor, actual: torch.Tensor, share: float) -> None:
    """Within `share` of the largest expected magnitude."""
    assert expected.shape == actual.shape
    difference = (expected.double() - actual.double()).abs().max().item()
    assert difference <= share * expected.double().abs().max().item()


def element(blocks: torch.Tensor, scales: torch.Tensor, row: int, j: int) -> float:
    """One weight by scalar arithmetic, from one expert's blocks and scales."""
    byte = blocks[row, j // 32, j % 32 // 2].item()
    code = byte >> 4 if j % 2 else byte & 15
    sign = -1.0 if code >= 8 else 1.0
    return sign * E2M1[code % 8] * 2.0 ** (scales[row, j // 32].item() - 127)


def scalar_expert(w: ExpertWeights, e: int, x: list[float]) -> list[float]:
    """One expert on one token with Python floats, as the gpt-oss model card says."""
    inner = []
    blocks, scales = w.gate_up_blocks[e], w.gate_up_scales[e]
    for i in range(scales.shape[0] // 2):
        gate, up = (
            sum(element(blocks, scales, row, h) * x[h] for h in range(len(x)))
            + w.gate_up_bias[e, row].item()
            for row in (2 * i, 2 * i + 1)
        )
        gate, up = min(gate, 7.0), max(-7.0, min(up, 7.0))
        inner.append(gate / (1 + math.exp(-1.702 * gate)) * (up + 1))
    blocks, scales = w.down_blocks[e], w.down_scales[e]
    return [
        sum(element(blocks, scales, h, i) * inner[i] for i in range(len(inner)))
        + w.down_bias[e, h].item()
        for h in range(scales.shape[0])
    ]


def test_float64_is_the_scalar_layer() -> None:
    weights, (x, routing) = layer(TINY), batch(TINY, tokens=3)
    expected = torch.zeros(3, TINY.hidden, dtype=torch.float64)
    for t in range(3):
        for k in range(TINY.top_k):
            down = scalar_expert(weights, routing.ids[t, k].item(), x[t].tolist())
            weight = routing.weights[t, k].item()
            expected[t] += weight * torch.tensor(down, dtype=torch.float64)
    assert_close(expected, moe(weights, TINY, x, routing)["combine"], EXACT)


@pytest.mark.parametrize(("name", "share"), [("float64", EXACT), ("fp32", 1e-6)])
def test_the_layer_is_that_of_transformers(name, share) -> None:
    reason = "transformers is the optional extra 'hf'"
    gpt_oss = pytest.importorskip("transformers.models.gpt_oss", reason=reason)
    arithmetic = ARITHMETIC.get(name, FLOAT64)
    dtype = arithmetic.output
    weights, (x, routing) = layer(GPT_OSS), batch(GPT_OSS, tokens=20)
    experts = gpt_oss.modeling_gpt_oss.GptOssExperts(
        gpt_oss.GptOssConfig(
            hidden_size=GPT_OSS.hidden,
            intermediate_size=GPT_OSS.intermediate,
            num_local_experts=GPT_OSS.experts,
        )
    )
    w1 = decode(weights.gate_up_blocks, weights.gate_up_scales, dtype)
    w2 = decode(weights.down_blocks, weights.down_scales, dtype)
    experts.gate_up_proj.data = w1.transpose(1, 2).contiguous()
    experts.down_proj.data = w2.transpose(1, 2).contiguous()
    experts.gate_up_proj_bias.data = weights.gate_up_bias.to(dtype)
    experts.down_proj_bias.data = weights.down_bias.to(dtype)
    theirs = experts(x.to(dtype), routing.ids.long(), routing.weights.to(dtype))
    ours = moe(weights, GPT_OSS, x, routing, arithmetic=arithmetic)["combine"]
    assert_close(theirs.detach(), ours, share)


@pytest.mark.parametrize("name", ["out_f32", "out_bf16in_bits"])
def test_swiglu_is_the_golden_one(golden, name) -> None:
    """Bit for bit with the vector instructions that made it, else within one place."""
    gate, up = (torch.from_numpy(golden[f"swiglu_{n}"]) for n in ("gate", "up"))
    expected = golden[f"swiglu_{name}"]
    halves = torch.stack((gate, up), dim=-1).flatten()
    if name == "out_f32":
        found = activate(halves, SWIGLU_OAI).view(torch.int32).numpy()
    else:
        found = activate(halves.bfloat16(), SWIGLU_OAI).view(torch.int16).numpy()
    distance = np.abs(found.astype(int) - expected.view(found.dtype))
    vector = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    assert distance.max() <= (0 if vector else 1)


def test_gate_is_even_and_clamped_above_only_up_is_odd_and_clamped_twice() -> None:
    gate, up = split_halves(torch.tensor([-9.0, 9.0, 9.0, -9.0]).double())
    assert ([-9.0, 9.0], [9.0, -9.0]) == (gate.tolist(), up.tolist())
    low = -9.0 / (1 + math.exp(1.702 * 9.0)) * (7.0 + 1)
    high = 7.0 / (1 + math.exp(-1.702 * 7.0)) * (-7.0 + 1)
    found = activate(torch.tensor([-9.0, 9.0, 9.0, -9.0]).double(), SWIGLU_OAI)
    assert found.tolist() == pytest.approx([low, high], rel=1e-14)


def test_silu_without_bias_is_the_plain_gated_layer() -> None:
    """By torch's own silu, linear and softmax weights, expert by expert."""
    weights, (x, routing) = layer(NO_BIAS), batch(NO_BIAS)
    w1 = decode(weights.gate_up_blocks, weights.gate_up_scales)
    w2 = decode(weights.down_blocks, weights.down_scales)
    expected = torch.zeros(len(x), NO_BIAS.hidden, dtype=torch.float64)
    for t in range(len(x)):
        for e, weight in zip(routing.ids[t], routing.weights[t], strict=True):
            gate, up = w1[e, 0::2] @ x[t].double(), w1[e, 1::2] @ x[t].double()
            act = torch.nn.functional.silu(gate) * up
            expected[t] += weight.double() * (w2[e] @ act)
    assert_close(expected, moe(weights, NO_BIAS, x, routing)["combine"], EXACT)


@pytest.mark.parametrize("arithmetic", [FLOAT64, *CLASSES], ids=lambda c: c.name)
@pytest.mark.parametrize("weight", [math.nan, math.inf, -math.inf, 0.5])
def test_id_minus_one_contributes_exactly_nothing(arithmetic, weight) -> None:
    weights, (x, routing) = layer(GPT_OSS), batch(GPT_OSS)
    first = Routing(routing.ids[:, :1], routing.weights[:, :1])
    expected = moe(weights, GPT_OSS, x, first, arithmetic=arithmetic)
    absent = routing.clone()
    absent.ids[:, 1], absent.weights[:, 1] = -1, weight
    found = moe(weights, GPT_OSS, x, absent, arithmetic=arithmetic)
    assert torch.equal(expected["combine"], found["combine"])
    assert all((found[s][:, 1] == 0).all() for s in ("gate_up", "activation", "down"))


def test_a_token_without_experts_gives_exactly_zero() -> None:
    weights, (x, routing) = layer(GPT_OSS), batch(GPT_OSS)
    routing.ids[2], routing.weights[2] = -1, math.nan
    combine = moe(weights, GPT_OSS, x, routing)["combine"]
    assert (combine[2] == 0).all()
    assert not combine.isnan().any()


def test_an_expert_without_tokens_does_not_enter() -> None:
    """Its weights are NaN here."""
    weights, (x, routing) = layer(GPT_OSS), batch(GPT_OSS)
    weights.gate_up_scales[3] = weights.down_scales[3] = 255
    routing.ids[:] = torch.tensor([2, 0])
    assert not moe(weights, GPT_OSS, x, routing)["combine"].isnan().any()


@pytest.mark.parametrize("tp", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("ep", [1, 2, 4])
@pytest.mark.parametrize("config", [GPT_OSS, NO_BIAS], ids=MoEConfig.label)
def test_the_ranks_add_up_to_the_whole(config, tp, ep) -> None:
    """At tp=4 and tp=8 the last ranks own no lane of 96 and add their bias only."""
    weights, (x, routing) = layer(config), batch(config)
    total = 0
    for r, q in itertools.product(range(tp), range(ep)):
        shard = Shard(tp_size=tp, tp_rank=r, ep_size=ep, ep_rank=q)
        total += moe(weights, config, x, routing, shard=shard)["combine"]
    assert_close(moe(weights, config, x, routing)["combine"], total, EXACT)


def test_a_rank_without_lanes_adds_its_share_of_the_bias() -> None:
    weights, (x, routing) = layer(GPT_OSS), batch(GPT_OSS)
    shard = Shard(tp_size=8, tp_rank=7)
    assert 0 == len(shard.intermediate_range(GPT_OSS))
    combine = moe(weights, GPT_OSS, x, routing, shard=shard)["combine"]
    bias = weights.down_bias.double()[routing.ids.long()] / 8
    assert_close((routing.weights.double()[..., None] * bias).sum(1), combine, EXACT)


def test_a_slot_of_another_rank_adds_nothing_even_if_its_weight_is_nan() -> None:
    weights, (x, routing) = layer(GPT_OSS), batch(GPT_OSS)
    shard = Shard(ep_size=2, ep_rank=1)
    expected = moe(weights, GPT_OSS, x, routing, shard=shard)
    spoilt = routing.weights.masked_fill(routing.ids < 2, math.nan)
    found = moe(weights, GPT_OSS, x, Routing(routing.ids, spoilt), shard=shard)
    assert torch.equal(expected["combine"], found["combine"])


def test_a_rank_computes_the_same_from_its_own_weights() -> None:
    weights, (x, routing) = layer(GPT_OSS), batch(GPT_OSS)
    shard = Shard(tp_size=2, tp_rank=1, ep_size=2, ep_rank=1)
    part = shard_weights(weights, GPT_OSS, shard)
    expected = moe(weights, GPT_OSS, x, routing, shard=shard)
    found = moe_of_rank(part, GPT_OSS, x, routing, shard=shard)
    assert torch.equal(expected["combine"], found["combine"])


@classes
def test_each_class_rounds_exactly_where_it_says(arithmetic) -> None:
    """Each stage recomputed from the one before it, and rounded once."""
    a = arithmetic
    weights, (x, routing) = layer(GPT_OSS), batch(GPT_OSS)
    trace = moe(weights, GPT_OSS, x, routing, arithmetic=a)
    act = activate(trace["gate_up"], GPT_OSS.activation)
    assert torch.equal(act.to(a.intermediate).to(a.accumulate), trace["activation"])
    exact_slots = replace(a, slot=a.accumulate)
    exact = moe(weights, GPT_OSS, x, routing, arithmetic=exact_slots)
    assert torch.equal(exact["down"].to(a.slot).to(a.accumulate), trace["down"])
    exact_output = replace(a, output=a.accumulate)
    exact = moe(weights, GPT_OSS, x, routing, arithmetic=exact_output)
    assert torch.equal(exact["combine"].to(a.output), trace["combine"])


@classes
def test_each_stage_of_a_class_is_near_the_truth(arithmetic) -> None:
    """2**-8 is bfloat16's half step; sums and two roundings stay below four of them."""
    weights, (x, routing) = layer(GPT_OSS), batch(GPT_OSS)
    truth = moe(weights, GPT_OSS, x, routing)
    trace = moe(weights, GPT_OSS, x, routing, arithmetic=arithmetic)
    assert_close(truth["gate_up"], trace["gate_up"], 1e-6)
    share = 1e-6 if arithmetic.intermediate == torch.float32 else 2.0**-6
    for stage in ("activation", "down", "combine"):
        assert_close(truth[stage], trace[stage], share)


@pytest.mark.parametrize("arithmetic", [FLOAT64, *CLASSES], ids=lambda c: c.name)
@pytest.mark.parametrize("tokens", [0, 1, 5])
@pytest.mark.parametrize(("rank", "lanes"), [(0, 64), (1, 32)])
def test_stages_have_their_shapes_and_dtypes(arithmetic, tokens, rank, lanes) -> None:
    weights, (x, routing) = layer(GPT_OSS), batch(GPT_OSS, tokens)
    shard = Shard(tp_size=2, tp_rank=rank)
    trace = moe(weights, GPT_OSS, x, routing, shard=shard, arithmetic=arithmetic)
    expected = {
        "gate_up": ((tokens, 2, 2 * lanes), arithmetic.accumulate),
        "activation": ((tokens, 2, lanes), arithmetic.accumulate),
        "down": ((tokens, 2, 64), arithmetic.accumulate),
        "combine": ((tokens, 64), arithmetic.output),
    }
    found = {s: (tuple(v.shape), v.dtype) for s, v in trace.stages.items()}
    assert expected == found


def test_the_inputs_are_not_modified() -> None:
    weights, (x, routing) = layer(GPT_OSS), batch(GPT_OSS)
    given = (*weights.tensors().values(), x, routing.ids, routing.weights)
    before = [tensor.clone() for tensor in given]
    moe(weights, GPT_OSS, x, routing, arithmetic=ARITHMETIC["w4a16_fp32acc"])
    assert all(map(torch.equal, before, given))
