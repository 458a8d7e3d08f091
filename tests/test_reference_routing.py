"""`mxmoe.reference.routing`: which experts, and with what weight."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from mxmoe.reference.routing import route
from mxmoe.reference.routing import route_layer
from mxmoe.reference.routing import router_logits
from mxmoe.reference.types import MoEConfig

INF, NAN = math.inf, math.nan
DTYPES = [torch.bfloat16, torch.float32, torch.float64]

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def golden_logits(golden: dict[str, np.ndarray]) -> torch.Tensor:
    """bfloat16 [64, 32]; many ties, rows 0 and 1 on purpose."""
    bits = golden["route_logits_bf16_bits"].view(np.int16)
    return torch.from_numpy(bits.copy()).view(torch.bfloat16)


def ulps(expected: torch.Tensor, actual: torch.Tensor) -> int:
    """The largest distance of two positive float32 tensors, in last places."""
    distance = expected.view(torch.int32) - actual.view(torch.int32)
    return distance.abs().max().item()


def golden_ulps() -> int:
    """What this machine's exp may differ from the one that made the golden file.

    torch's AVX2 and AVX512 kernels agree bit for bit; its plain ones (other
    machines) were 3 units away in the softmax.
    """
    return 0 if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512") else 4


def by_hand(row: tuple[float, ...], top_k: int) -> list[int]:
    """Largest first, the lowest id of a tie; Python compares +0 and -0 as equal."""
    return sorted(range(len(row)), key=lambda e: (-row[e], e))[:top_k]


def test_ids_are_the_golden_ones_by_the_lowest_id_rule(golden) -> None:
    expected = golden["route_topk_lowidx_ids_TRANSCRIBED"].tolist()
    assert expected == route(golden_logits(golden), 4).ids.tolist()


def test_golden_ties_are_broken_otherwise_by_torch_topk(golden) -> None:
    """The golden rows tell the two rules apart: 11 of 64 differ."""
    ours = route(golden_logits(golden), 4).ids.numpy()
    assert 11 == (ours != golden["route_topk_torchcpu_ids"]).any(axis=1).sum()


def test_weights_are_the_golden_ones(golden) -> None:
    expected = torch.from_numpy(golden["route_w_softmax_f32"])
    assert ulps(expected, route(golden_logits(golden), 4).weights) <= golden_ulps()


@pytest.mark.parametrize("source", ["softmax_f32_to_bf16", "softmax_bf16"])
def test_bfloat16_weights_are_the_golden_ones(source, golden) -> None:
    """Softmax in float32 and one rounding, which is what a bfloat16 softmax does."""
    expected = golden[f"route_w_{source}_bits"].view(np.int16).astype(int)
    weights = route(golden_logits(golden), 4, dtype=torch.bfloat16).weights
    distance = np.abs(expected - weights.view(torch.int16).numpy())
    assert distance.max() <= min(golden_ulps(), 1)


@dtypes
@pytest.mark.parametrize("top_k", [1, 2, 3, 6])
def test_the_lowest_id_wins_every_tie(dtype, top_k) -> None:
    """All 4 096 rows of six logits from {-1, -0, +0, 1}."""
    rows = list(itertools.product((-1.0, -0.0, 0.0, 1.0), repeat=6))
    routing = route(torch.tensor(rows, dtype=dtype), top_k)
    assert [by_hand(row, top_k) for row in rows] == routing.ids.tolist()


@pytest.mark.parametrize("experts", [32, 128, 512])
def test_equal_logits_choose_the_first_experts_in_order(experts) -> None:
    """Long rows too, where an unstable sort would show."""
    routing = route(torch.full((3, experts), 0.5), 4)
    assert [[0, 1, 2, 3]] * 3 == routing.ids.tolist()
    assert torch.equal(torch.full((3, 4), 0.25), routing.weights)


@dtypes
def test_all_negative_logits_choose_the_least_negative(dtype) -> None:
    logits = torch.tensor([[-4.0, -1.0, -3.0, -2.0, -5.0]], dtype=dtype)
    routing = route(logits, 3)
    assert [[1, 3, 2]] == routing.ids.tolist()
    whole = sum(math.exp(-j) for j in range(3))
    expected = torch.tensor([[math.exp(-j) / whole for j in range(3)]])
    assert ulps(expected, routing.weights) <= 4


@dtypes
@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_rows_with_nan_give_distinct_ids_in_range(dtype, top_k) -> None:
    """All 1 024 rows of five logits from {NaN, -Inf, 0, Inf}; NaN comes first."""
    rows = list(itertools.product((NAN, -INF, 0.0, INF), repeat=5))
    routing = route(torch.tensor(rows, dtype=dtype), top_k)
    no_nan_first = [[INF if v != v else min(v, 1.0) for v in row] for row in rows]
    assert [by_hand(row, top_k) for row in no_nan_first] == routing.ids.tolist()
    with_nan = torch.tensor([any(v != v for v in row) for row in rows])
    assert routing.weights[with_nan].isnan().all()


def test_negative_nan_ranks_like_nan() -> None:
    logits = -torch.tensor([[1.0, -NAN, 2.0, NAN]])
    assert [[1, 3, 0]] == route(logits, 3).ids.tolist()


def test_infinite_logits_are_ordered_and_minus_infinity_weighs_nothing() -> None:
    routing = route(torch.tensor([[-INF, 0.0, -INF, 0.0]]), 3)
    assert [[1, 3, 0]] == routing.ids.tolist()
    assert [[0.5, 0.5, 0.0]] == routing.weights.tolist()
    assert [[2, 0, 1]] == route(torch.tensor([[1.0, -INF, INF]]), 3).ids.tolist()


def test_logits_are_compared_at_full_precision() -> None:
    """In float32 both rows are ties, and the lower id wins."""
    rows = [[1.0, 1.0 + 2**-52], [-1.0 - 2**-52, -1.0]]
    near = route(torch.tensor(rows, dtype=torch.float64), 2)
    assert [[1, 0]] * 2 == near.ids.tolist()
    assert [[0.5, 0.5]] * 2 == near.weights.tolist()
    tied = route(torch.tensor(rows, dtype=torch.float32), 2)
    assert [[0, 1]] * 2 == tied.ids.tolist()


def test_weights_are_the_softmax_of_the_chosen_alone() -> None:
    """By hand in float64; the other experts do not enter the sum.

    The difference d to the largest logit is rounded, which exp turns into a
    relative |d| * 2**-24; exp, sum and division add less than 8 roundings.
    """
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(100, 16, generator=generator)
    routing = route(logits, 4)
    chosen = logits.gather(1, routing.ids.long()).double()
    expected = chosen.exp() / chosen.exp().sum(dim=1, keepdim=True)
    bound = (chosen[:, :1] - chosen[:, 3:] + 8) * 2.0**-24
    assert (routing.weights / expected - 1).abs().le(bound).all()


def test_weights_sum_to_the_routed_scaling() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(100, 16, generator=generator)
    total = route(logits, 4, routed_scaling=2.5).weights.double().sum(dim=1)
    assert (total - 2.5).abs().max() <= 2.5 * 8 * 2.0**-24


def test_routed_scaling_multiplies_before_the_last_rounding() -> None:
    logits = torch.linspace(-3, 3, 60).view(5, 12)
    plain = route(logits, 4).weights
    scaled = route(logits, 4, routed_scaling=2.5, dtype=torch.bfloat16).weights
    assert torch.equal((plain * 2.5).to(torch.bfloat16), scaled)


@dtypes
def test_routing_has_int32_ids_and_weights_of_the_dtype_asked_for(dtype) -> None:
    routing = route(torch.linspace(-1, 1, 24).view(3, 8), 2, dtype=dtype)
    assert (torch.int32, dtype) == (routing.ids.dtype, routing.weights.dtype)
    assert routing.ids.is_contiguous()


def test_no_tokens_give_an_empty_routing() -> None:
    routing = route(torch.zeros(0, 8), 2)
    assert ((0, 2), (0, 2)) == (tuple(routing.ids.shape), tuple(routing.weights.shape))


def test_the_logits_are_not_modified() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0]])
    before = logits.clone()
    route(logits, 2)
    assert torch.equal(before, logits)


@pytest.mark.parametrize("with_bias", [True, False])
def test_router_logits_are_the_scalar_sums(with_bias) -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(3, 8, generator=generator)
    w = torch.randn(5, 8, generator=generator).bfloat16()
    b = torch.randn(5, generator=generator).bfloat16() if with_bias else None
    expected = [
        [
            math.fsum(x[t, h].item() * w[e, h].item() for h in range(8))
            + (b[e].item() if b is not None else 0.0)
            for e in range(5)
        ]
        for t in range(3)
    ]
    logits = router_logits(x, w, b)
    assert torch.float64 == logits.dtype
    difference = (logits - torch.tensor(expected, dtype=torch.float64)).abs()
    assert difference.max() <= 1e-14


def test_router_logits_are_computed_in_the_dtype_asked_for() -> None:
    """1 + 2**-30 is a float64 and not a float32 number."""
    x, w = torch.ones(1, 2), torch.tensor([[1.0, 2.0**-30]])
    assert [[1.0 + 2.0**-30]] == router_logits(x, w, None).tolist()
    assert [[1.0]] == router_logits(x, w, None, torch.float32).tolist()


def test_route_layer_uses_the_configuration_and_float64_logits() -> None:
    """The logits differ by 2**-30 only: float32 sums would tie, and choose id 0."""
    config = MoEConfig(
        hidden=32, intermediate=32, experts=4, top_k=2, routed_scaling=0.5
    )
    x = torch.zeros(1, 32)
    x[0, :2] = 1.0
    weight = torch.zeros(4, 32)
    weight[:, 0] = torch.tensor([1.0, 1.0, 1.0, 0.0])
    weight[2, 1] = 2.0**-30
    bias = torch.tensor([0.0, 0.0, 0.0, -1.0])
    routing = route_layer(x, weight, bias, config, dtype=torch.bfloat16)
    assert [[2, 0]] == routing.ids.tolist()
    assert [[0.25, 0.25]] == routing.weights.tolist()
    assert torch.bfloat16 == routing.weights.dtype
    assert [[3, 2]] == route_layer(x, weight, 4 * -bias, config).ids.tolist()


def test_route_layer_agrees_with_transformers_where_nothing_ties() -> None:
    reason = "transformers is the optional extra 'hf'"
    gpt_oss = pytest.importorskip("transformers.models.gpt_oss", reason=reason)
    config = MoEConfig(hidden=64, intermediate=32, experts=16, top_k=4)
    hf_config = gpt_oss.GptOssConfig(
        hidden_size=64, num_local_experts=16, num_experts_per_tok=4
    )
    router = gpt_oss.modeling_gpt_oss.GptOssTopKRouter(hf_config).double()
    generator = torch.Generator().manual_seed(3)
    for parameter in router.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator).double()
    x = torch.randn(50, 64, generator=generator).double()
    _, scores, ids = router(x)
    routing = route_layer(x, router.weight, router.bias, config)
    assert torch.equal(ids.int(), routing.ids)
    assert (scores - routing.weights).abs().max() <= 2.0**-22
