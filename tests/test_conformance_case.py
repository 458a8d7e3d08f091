"""A case is a word, the word is the case, and its data shows what it promises."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from mxmoe.conformance.cases.case import HOT_SPOTS
from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.case import parse_case
from mxmoe.conformance.cases.designed import CaseData
from mxmoe.conformance.cases.designed import make_case_data
from mxmoe.conformance.cases.designed import on_device
from mxmoe.conformance.cases.strategies import cases
from mxmoe.conformance.checks.test_l3_numbers import EXAMPLES
from mxmoe.conformance.checks.test_l3_numbers import GAIN_EXAMPLES
from mxmoe.reference.activation import split_halves
from mxmoe.reference.errors import BadInput
from mxmoe.reference.formats import decode
from mxmoe.reference.moe import moe
from mxmoe.reference.types import BLOCK
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Shard

SHAPE = MoEConfig(hidden=160, intermediate=224, experts=8, top_k=2)
CASE = Case(config=SHAPE, tokens=33, seed=5)
CPU = torch.device("cpu")

every_case = cases(lambda config, shard: True, hot=tuple(HOT_SPOTS))
layer_cases = st.builds(
    Case,
    layer=st.integers(0, 200),
    shard=st.sampled_from([Shard(), Shard(tp_size=8, tp_rank=7, ep_size=4)]),
    tokens=st.integers(0, 2**20),
    seed=st.integers(0, 10**9 - 1),
    hot=st.lists(st.sampled_from(list(HOT_SPOTS)), unique=True).map(tuple),
)
repeatable = settings(
    max_examples=100,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
spots = pytest.mark.parametrize("spot", HOT_SPOTS)


def hot(*spot: str, case: Case = CASE) -> CaseData:
    return make_case_data(replace(case, hot=spot))


def digest(word: str) -> str:
    """One hash over every byte of the case's tensors."""
    data = make_case_data(parse_case(word))
    tensors = {
        **data.weights.tensors(),
        "x": data.hidden_states,
        "ids": data.routing.ids,
        "p": data.routing.weights,
    }
    hashed = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        hashed.update(name.encode())
        hashed.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return hashed.hexdigest()


@given(st.one_of(every_case, layer_cases))
@repeatable
def test_a_case_prints_as_one_word_that_parses_back(case: Case) -> None:
    word = str(case)
    assert re.fullmatch(r"[a-z0-9/+_-]+", word)
    assert parse_case(word) == case
    assert str(parse_case(word)) == word


@pytest.mark.parametrize(
    "word",
    [
        "",
        "x",
        "e4k2h64i96",
        "e4k2h64i96/tp1r0/t1",
        "e4k2h64i96/tp1r0/t1/s0/strided/strided",
        "e4k2h64i96/tp1r0/t1/s0/",
        "e4k2h64i96/tp1r0/t1/s0/hot",
        "e4k2h64i96/tp1r0/t-1/s0",
        "e4k2h64i96/tp1r0/t1/s-1",
        "e4k2h64i96/tp1r0/t1048577/s0",
        pytest.param("e4k2h64i96/tp1r0/t" + "9" * 5000 + "/s0", id="5000 digits"),
        "e4k2h64i96/tp1r0/t\u0663/s0",
        "e4k2h64i97/tp1r0/t1/s0",
        "e4k5h64i96/tp1r0/t1/s0",
        "e0k0h64i96/tp1r0/t1/s0",
        "e4k2h64i96-gelu/tp1r0/t1/s0",
        "e4k2h64i96/tp0r0/t1/s0",
        "e4k2h64i96/tp2r2/t1/s0",
        "e4k2h64i96/tp1r0-ep3r0/t1/s0",
        "e4k2h64i96/tp1r0-ep0r0/t1/s0",
        "layer-1/tp1r0/t1/s0",
        "layer/tp1r0/t1/s0",
        "e4k2h64i96/tp1r0/t1/s0\n",
        "\x1b[31me4k2h64i96/tp1r0/t1/s0",
    ],
)
def test_a_bad_word_is_refused_in_one_sentence(word: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_case(word)
    sentence = str(caught.value)
    assert "expected" in sentence
    assert "found" in sentence
    assert sentence.isprintable()


@given(st.text(max_size=60))
@repeatable
def test_any_text_is_a_case_or_bad_input(text: str) -> None:
    for word in (text, f"e4k2h64i96/tp1r0/t1/s0/{text}", f"{text}/tp1r0/t1/s0"):
        try:
            parse_case(word)
        except BadInput:
            continue


def test_the_data_of_a_case_is_the_same_in_another_process() -> None:
    words = ["e4k2h64i96/tp2r1/t17/s5/strided+no_expert", f"{CASE}/cancellation"]
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        "from test_conformance_case import digest;"
        "print(*map(digest, sys.argv[2:]))"
    )
    command = [sys.executable, "-c", script, __file__.rpartition("/")[0], *words]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.split() == [digest(word) for word in words]


def test_tokens_do_not_change_the_weights_and_seeds_do() -> None:
    weights = make_case_data(CASE).weights.tensors()
    fewer = make_case_data(replace(CASE, tokens=2)).weights.tensors()
    other = make_case_data(replace(CASE, seed=6)).weights.tensors()
    assert all(torch.equal(weights[name], fewer[name]) for name in weights)
    assert not any(torch.equal(weights[name], other[name]) for name in weights)


@given(every_case)
@repeatable
def test_every_expert_is_reached_as_soon_as_the_slots_suffice(case: Case) -> None:
    routing = make_case_data(replace(case, hot=())).routing
    config = case.config
    assert config is not None
    reached = routing.ids.unique().numel()
    assert reached == min(config.experts, case.tokens * config.top_k)
    ordered = routing.ids.sort(dim=1).values
    assert (ordered[:, 1:] != ordered[:, :-1]).all()
    assert torch.allclose(routing.weights.sum(dim=1), torch.ones(case.tokens))


@pytest.mark.parametrize("case", [*EXAMPLES, *GAIN_EXAMPLES[:1]], ids=str)
def test_every_fixed_example_reaches_every_expert(case: Case) -> None:
    assert make_case_data(case).experts_reached == case.config.experts


def fraction(mask: torch.Tensor) -> float:
    return float(mask.double().mean())


def test_each_side_of_each_clamp_is_hit() -> None:
    data = make_case_data(CASE)
    trace = moe(data.weights, SHAPE, data.hidden_states, data.routing)
    gate, up = split_halves(trace["gate_up"])
    limit = SHAPE.activation.limit
    for beyond in (gate > limit, gate < -limit, up > limit, up < -limit):
        assert 0.02 < fraction(beyond) < 0.25


def test_biases_are_as_large_as_the_products() -> None:
    data = make_case_data(CASE)
    bare = replace(data.weights, gate_up_bias=None, down_bias=None)
    trace = moe(bare, SHAPE, data.hidden_states, data.routing)
    for stage in ("gate_up", "down"):
        bias = data.weights.tensors()[f"{stage}_bias"].double()
        assert 0.5 < float(bias.std() / trace[stage].std()) < 2


@pytest.mark.parametrize("name", ["gate_up_scales", "down_scales"])
def test_block_scales_vary_along_rows_and_columns(name: str) -> None:
    scales = make_case_data(CASE).weights.tensors()[name].int()
    assert fraction(scales[:, 1:] != scales[:, :-1]) > 0.5
    assert fraction(scales[:, :, 1:] != scales[:, :, :-1]) > 0.5


def test_routing_weights_are_unequal() -> None:
    weights = make_case_data(CASE).routing.weights
    assert float((weights[:, 0] - weights[:, 1]).abs().median()) > 0.1


def test_inputs_of_class_fp32_need_more_than_bfloat16() -> None:
    fine = make_case_data(CASE, hidden_dtype=torch.float32).hidden_states
    assert fraction(fine.bfloat16().float() != fine) > 0.9
    assert torch.equal(fine.bfloat16(), make_case_data(CASE).hidden_states)


@spots
def test_a_hot_spot_alone_changes_the_case(spot: str) -> None:
    data, plain = on_device(CASE, hot(spot), CPU), make_case_data(CASE)
    named = {**data.weights.tensors(), "x": data.hidden_states, "r": data.routing.ids}
    before = {**plain.weights.tensors(), "x": plain.hidden_states}
    before["r"] = plain.routing.ids
    changed = any(not torch.equal(named[n], before[n]) for n in named)
    assert changed == (spot != "strided")


def test_strided_gives_views_with_poisoned_gaps() -> None:
    case = replace(CASE, hot=("strided",))
    data = make_case_data(case)
    moved = on_device(case, data, CPU)
    for view, dense in (
        (moved.hidden_states, data.hidden_states),
        (moved.routing.ids, data.routing.ids),
        (moved.routing.weights, data.routing.weights),
    ):
        assert torch.equal(view, dense)
        assert view.stride(0) > view.shape[1]
        gaps = view._base[:, view.shape[1] :].contiguous()
        assert (gaps.view(torch.uint8) == 0xFF).all()


def test_no_expert_gives_empty_slots_a_weight_of_1000() -> None:
    routing = hot("no_expert").routing
    empty = routing.ids == -1
    assert 0.1 < fraction(empty) < 0.5
    assert (routing.weights[empty] == 1000).all()
    assert (routing.weights[~empty] <= 1).all()


def test_one_route_sends_every_token_the_same_way() -> None:
    assert (hot("one_route").routing.ids == hot("one_route").routing.ids[:1]).all()


def test_silent_expert_is_never_visited_where_another_can_be() -> None:
    assert (hot("silent_expert").routing.ids > 0).all()
    full = Case(config=replace(SHAPE, top_k=8), tokens=3)
    assert (hot("silent_expert", case=full).routing.ids == 0).any()


def test_zero_scale_gives_scale_bytes_of_zero_and_blocks_of_zeros() -> None:
    weights = hot("zero_scale").weights.tensors()
    for matrix in ("gate_up", "down"):
        assert 0.05 < fraction(weights[f"{matrix}_scales"] == 0) < 0.2
        dead = (weights[f"{matrix}_blocks"] == 0).all(dim=-1)
        assert 0.05 < fraction(dead) < 0.2


@pytest.mark.parametrize("hidden", [64, 96, 160])
def test_cancellation_adds_256_where_it_adds_nothing(hidden: int) -> None:
    case = replace(CASE, config=replace(SHAPE, hidden=hidden))
    data = hot("cancellation", case=case)
    assert float(data.hidden_states[:, 0].min()) > 200
    assert float(data.hidden_states[:, -BLOCK].max()) < -200
    w1 = decode(data.weights.gate_up_blocks, data.weights.gate_up_scales)
    assert torch.equal(w1[..., :BLOCK], w1[..., -BLOCK:])
    assert fraction(w1[..., 0] != 0) > 0.8


def test_wide_hidden_is_beyond_float16() -> None:
    hidden = hot("wide_hidden").hidden_states
    assert hidden.isfinite().all()
    assert hidden.half().isinf().sum() == len(hidden)


def test_saturated_puts_most_lanes_beyond_a_clamp() -> None:
    data = hot("saturated")
    trace = moe(data.weights, SHAPE, data.hidden_states, data.routing)
    gate, up = split_halves(trace["gate_up"])
    limit = SHAPE.activation.limit
    assert fraction(gate.abs() > limit) > 0.5
    assert fraction(up.abs() > limit) > 0.5
    for beyond in (gate > limit, gate < -limit, up > limit, up < -limit):
        assert fraction(beyond) > 0.2
