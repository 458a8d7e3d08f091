"""`mxmoe.reference.types` and `errors`: what the contract accepts, and says."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import FrozenInstanceError
from dataclasses import replace

import pytest
import torch

from mxmoe.reference.errors import BadInput
from mxmoe.reference.layouts import CHECKPOINT_ORDER
from mxmoe.reference.layouts import LAYOUTS
from mxmoe.reference.layouts import IndexMap
from mxmoe.reference.types import ARITHMETIC
from mxmoe.reference.types import FLOAT64
from mxmoe.reference.types import GPT_OSS_20B
from mxmoe.reference.types import GPT_OSS_120B
from mxmoe.reference.types import SILU
from mxmoe.reference.types import SWIGLU_OAI
from mxmoe.reference.types import WHOLE
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import PreparedWeights
from mxmoe.reference.types import Routing
from mxmoe.reference.types import Shard
from mxmoe.reference.types import Trace
from mxmoe.reference.types import expected_tensors

SMALL = MoEConfig(hidden=64, intermediate=96, experts=4, top_k=2)
NO_BIAS = replace(SMALL, activation=SILU, has_bias=False)


def layer(config: MoEConfig) -> ExpertWeights:
    """Distinct random bytes of every kind; layouts do not look at values."""
    generator = torch.Generator().manual_seed(0)
    tensors = dict.fromkeys(("gate_up_bias", "down_bias", "router_bias"))
    for name, (shape, dtype) in expected_tensors(config).items():
        tensors[name] = (
            torch.randint(256, shape, generator=generator, dtype=dtype)
            if dtype == torch.uint8
            else torch.randn(shape, generator=generator).to(torch.bfloat16)
        )
    return ExpertWeights(**tensors)


def message(call, *args, **kwargs) -> str:
    """The one line of the `BadInput` that `call` must raise."""
    with pytest.raises(BadInput) as caught:
        call(*args, **kwargs)
    assert 1 == len(str(caught.value).splitlines())
    return str(caught.value)


@pytest.mark.parametrize("text", ["a\nb", "a\r\nb", "\x1b[31mred", "\u2028", "\ud800"])
def test_bad_input_stays_one_printable_line_whatever_it_quotes(text) -> None:
    shown = str(BadInput(f"{text}: expected a file, found none"))
    assert shown.isprintable()
    assert shown.endswith(": expected a file, found none")


@pytest.mark.parametrize("name", ["hidden", "intermediate", "experts", "top_k"])
@pytest.mark.parametrize("value", [0, -32, 2**20 + 32, 10**30, 64.0, True, "64", None])
def test_config_sizes_are_positive_integers(name, value) -> None:
    expected = f"{name}: expected an integer from 1 to 1048576, found {value!r}"
    assert expected == message(replace, SMALL, **{name: value})


@pytest.mark.parametrize("name", ["hidden", "intermediate"])
@pytest.mark.parametrize("value", [1, 31, 33, 2879])
def test_config_axes_are_whole_blocks(name, value) -> None:
    expected = f"{name}: expected a multiple of 32 (one MXFP4 block), found {value}"
    assert expected == message(replace, SMALL, **{name: value})


def test_config_has_no_more_slots_than_experts() -> None:
    expected = "top_k: expected at most experts = 4, found 5"
    assert expected == message(replace, SMALL, top_k=5)
    assert 4 == replace(SMALL, top_k=4).top_k


@pytest.mark.parametrize(
    ("routing", "found"),
    [("other", "'other'"), ("sigmoid_grouped", "'sigmoid_grouped' (reserved)")],
)
def test_config_refuses_a_routing_that_is_not_implemented(routing, found) -> None:
    expected = f"routing: expected one of topk_softmax, found {found}"
    assert expected == message(replace, SMALL, routing=routing)


@pytest.mark.parametrize("kind", ["tp", "ep"])
def test_shard_sizes_and_ranks_are_in_range(kind) -> None:
    for size in (0, -1, 2.0, True, None, 10**30):
        expected = f"{kind}_size: expected an integer from 1 to 1048576, found {size}"
        assert expected == message(Shard, **{f"{kind}_size": size})
    for rank in (4, -1, 1.0, True, None):
        expected = f"{kind}_rank: expected 0 to 3, found {rank}"
        assert expected == message(Shard, **{f"{kind}_size": 4, f"{kind}_rank": rank})


def test_experts_are_divided_equally_or_not_at_all() -> None:
    expected = "ep_size: expected a divisor of experts = 4, found 3"
    assert expected == message(Shard(ep_size=3).expert_range, SMALL)
    ranges = [Shard(ep_size=2, ep_rank=r).expert_range(SMALL) for r in range(2)]
    assert [range(0, 2), range(2, 4)] == ranges


@pytest.mark.parametrize(
    ("config", "shard", "expected"),
    [
        (GPT_OSS_120B, Shard(tp_size=8, tp_rank=7), ("e128k4h2880i2880", "tp8r7")),
        (NO_BIAS, Shard(ep_size=4), ("e4k2h64i96-silu-nobias", "tp1r0-ep4r0")),
    ],
)
def test_labels_name_what_differs(config, shard, expected) -> None:
    assert expected == (config.label(), shard.label())


def test_weights_of_the_right_shapes_pass_their_check() -> None:
    layer(SMALL).check(SMALL)
    layer(NO_BIAS).check(NO_BIAS)


@pytest.mark.parametrize("name", expected_tensors(SMALL))
def test_check_names_the_tensor_that_is_missing_or_wrong(name) -> None:
    weights = layer(SMALL)
    tensor, shape = getattr(weights, name), list(getattr(weights, name).shape)
    text = message(replace(weights, **{name: None}).check, SMALL)
    assert f"{name}: expected a tensor {shape}, found none" == text
    text = message(replace(weights, **{name: tensor[1:]}).check, SMALL)
    assert f"{name}: expected shape {shape}, found {[3, *shape[1:]]}" == text
    wanted = "a floating dtype" if name.startswith("router") else tensor.dtype
    text = message(replace(weights, **{name: tensor.to(torch.int8)}).check, SMALL)
    assert f"{name}: expected {wanted}, found torch.int8" == text


@pytest.mark.parametrize("name", ["gate_up_bias", "down_bias", "router_bias"])
def test_check_refuses_a_bias_that_the_configuration_excludes(name) -> None:
    weights = replace(layer(NO_BIAS), **{name: torch.zeros(4)})
    expected = f"{name}: expected none without biases, found a tensor"
    assert expected == message(weights.check, NO_BIAS)


def test_gpt_oss_20b_has_the_shapes_of_its_checkpoint() -> None:
    """As published: model.layers.0.mlp.experts.gate_up_proj_blocks and the rest."""
    shapes = {n: shape for n, (shape, _) in expected_tensors(GPT_OSS_20B).items()}
    assert {
        "gate_up_blocks": (32, 5760, 90, 16),
        "gate_up_scales": (32, 5760, 90),
        "gate_up_bias": (32, 5760),
        "down_blocks": (32, 2880, 90, 16),
        "down_scales": (32, 2880, 90),
        "down_bias": (32, 2880),
        "router_weight": (32, 2880),
        "router_bias": (32,),
    } == shapes


def test_clones_share_no_memory() -> None:
    weights, routing = layer(SMALL), Routing(torch.zeros(1, 2), torch.ones(1, 2))
    ours = [*weights.tensors().values(), routing.ids, routing.weights]
    copied = routing.clone()
    copies = [*weights.clone().tensors().values(), copied.ids, copied.weights]
    for one, other in zip(ours, copies, strict=True):
        assert torch.equal(one, other)
        assert one.data_ptr() != other.data_ptr()


def prepared(shard: Shard, tensors: Mapping[str, torch.Tensor]) -> PreparedWeights:
    """What `prepare` of a candidate of this layout would hand on."""
    return PreparedWeights(
        tensors=tensors,
        layout=CHECKPOINT_ORDER.name,
        config=SMALL,
        shard=shard,
        valid_hidden=SMALL.hidden,
        valid_intermediate=len(shard.intermediate_range(SMALL)),
    )


FROZEN = [
    SWIGLU_OAI,
    SMALL,
    layer(SMALL),
    WHOLE,
    Routing(torch.zeros(1, 1), torch.zeros(1, 1)),
    prepared(WHOLE, {}),
    FLOAT64,
    Trace(),
    CHECKPOINT_ORDER,
    IndexMap(source="down_bias", index=torch.arange(1)),
]


@pytest.mark.parametrize("value", FROZEN, ids=lambda v: type(v).__name__)
def test_everything_that_crosses_a_border_is_frozen(value) -> None:
    for field in dataclasses.fields(value):
        with pytest.raises(FrozenInstanceError):
            setattr(value, field.name, None)


@pytest.mark.parametrize("table", [ARITHMETIC, LAYOUTS])
def test_closed_lists_are_closed_and_named_by_their_entries(table) -> None:
    with pytest.raises(TypeError):
        table["new"] = None
    assert list(table) == [entry.name for entry in table.values()]


def test_each_arithmetic_class_declares_its_roundings() -> None:
    """accumulate, intermediate, slot, output; and whether sums may truncate."""
    f32, bf16 = torch.float32, torch.bfloat16
    assert {
        "w4a16_fp32acc": (f32, bf16, f32, bf16, True),
        "w4a16_fp32acc_bf16slots": (f32, bf16, bf16, bf16, True),
        "fp32": (f32, f32, f32, f32, False),
    } == {
        name: (a.accumulate, a.intermediate, a.slot, a.output, a.tensor_core)
        for name, a in ARITHMETIC.items()
    }


def test_prepared_weights_read_like_a_mapping() -> None:
    found = prepared(WHOLE, {"a": torch.zeros(1), "b": torch.ones(1)})
    assert (["a", "b"], 2) == (list(found), len(found))
    assert 1 == found["b"].item()
