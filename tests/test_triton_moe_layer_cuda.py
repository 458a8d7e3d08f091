"""The Triton path on a GPU: what the suite does not ask of every candidate."""

from __future__ import annotations

import pytest
import torch

from mxmoe.kernels.trtllm_gen.bench_prepare import random_weights
from mxmoe.reference.types import WHOLE
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import PreparedWeights
from mxmoe.reference.types import Routing

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="torch sees no CUDA device here"
)
if torch.cuda.is_available():
    from mxmoe.kernels.triton_moe import ops
    from mxmoe.kernels.triton_moe.candidate import candidate
    from mxmoe.kernels.triton_moe.layer import layer_of
    from mxmoe.kernels.triton_moe.tactics import TACTICS

    LABELS = [tactic.label() for tactic in TACTICS]
else:
    LABELS = []

SMALL = MoEConfig(hidden=160, intermediate=96, experts=8, top_k=4)
TOKENS = (1, 3, 17, 40, 130)


def prepared_layer(config: MoEConfig, *, seed: int = 0) -> PreparedWeights:
    """Random codes, scales from 2**-8 to 2**-3."""
    torch.manual_seed(seed)
    weights = random_weights(config, torch.device("cuda"))
    for scales in (weights.gate_up_scales, weights.down_scales):
        scales.random_(119, 125)
    return PreparedWeights(
        tensors=candidate.prepare(weights, config, WHOLE, torch.device("cuda")),
        layout="triton_moe.v1",
        config=config,
        valid_hidden=config.hidden,
        valid_intermediate=config.intermediate,
    )


def batch(config: MoEConfig, tokens: int) -> tuple[torch.Tensor, Routing]:
    x = torch.randn(tokens, config.hidden, device="cuda").bfloat16()
    scores, ids = torch.rand(tokens, config.experts, device="cuda").topk(config.top_k)
    return x, Routing(ids.int(), scores.softmax(-1))


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(one.view(torch.int16), other.view(torch.int16))


@pytest.mark.parametrize("label", LABELS)
def test_a_thousand_repeats_have_the_same_bits(label: str) -> None:
    p = prepared_layer(SMALL)
    x, routing = batch(SMALL, 130)
    first = candidate.forward(p, x, routing, tactic=label)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        again = candidate.forward(p, x, routing, tactic=label)
    for _ in range(1000):
        again.fill_(torch.nan)
        graph.replay()
        assert same_bits(again, first)


@pytest.mark.parametrize("tokens", TOKENS)
def test_tactics_agree_up_to_the_order_of_sums(tokens: int) -> None:
    p = prepared_layer(SMALL)
    x, routing = batch(SMALL, tokens)
    outputs = [candidate.forward(p, x, routing, tactic=t).float() for t in LABELS]
    scale = outputs[0].abs().max()
    for output in outputs[1:]:
        assert (output - outputs[0]).abs().max() <= 2**-7 * scale


@pytest.mark.parametrize("label", LABELS)
def test_a_token_has_the_same_bits_alone_and_in_a_batch(label: str) -> None:
    """With a forced tactic; the chosen one depends on the number of tokens."""
    p = prepared_layer(SMALL)
    x, routing = batch(SMALL, 130)
    whole = candidate.forward(p, x, routing, tactic=label)
    for token in (0, 64, 129):
        t = slice(token, token + 1)
        alone = Routing(routing.ids[t], routing.weights[t])
        assert same_bits(candidate.forward(p, x[t], alone, tactic=label), whole[t])


@pytest.mark.parametrize("tokens", TOKENS)
def test_a_graph_computes_what_a_call_does(tokens: int) -> None:
    p = prepared_layer(SMALL)
    x, _ = batch(SMALL, tokens)
    router = torch.randn(SMALL.experts, SMALL.hidden, device="cuda").bfloat16()
    called = candidate.forward_fused(p, x, router, None, SMALL.top_k)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = candidate.forward_fused(p, x, router, None, SMALL.top_k)
    graph.replay()
    assert same_bits(called, captured)


@pytest.mark.parametrize("tokens", TOKENS)
def test_memory_that_holds_nan_changes_no_bit(tokens: int) -> None:
    """torch fills what it allocates with NaN while it is told to be deterministic."""
    p = prepared_layer(SMALL)
    x, routing = batch(SMALL, tokens)
    routing.ids[0, 1:] = -1
    clean = candidate.forward(p, x, routing)
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.utils.deterministic.fill_uninitialized_memory
        assert torch.empty(4, device="cuda").isnan().all()
        poisoned = candidate.forward(p, x, routing)
    finally:
        torch.use_deterministic_algorithms(False)
    assert same_bits(clean, poisoned)


def test_weights_beyond_two_to_the_31_bytes_are_reached() -> None:
    """260 experts of 2880 x 2880; the last ones alone are a layer of their own."""
    config = MoEConfig(hidden=2880, intermediate=2880, experts=260, top_k=2)
    p = prepared_layer(config)
    assert p["gate_up_weights"].nbytes > 2**31
    few = MoEConfig(hidden=2880, intermediate=2880, experts=4, top_k=2)
    last = PreparedWeights(
        tensors={n: t[-4:] if len(t) > 1 else t for n, t in p.items()},
        layout=p.layout,
        config=few,
        valid_hidden=2880,
        valid_intermediate=2880,
    )
    x, routing = batch(few, 33)
    of_all = Routing(routing.ids + 256, routing.weights)
    for label in LABELS:
        expected = candidate.forward(last, x, routing, tactic=label)
        assert same_bits(candidate.forward(p, x, of_all, tactic=label), expected)


def test_torch_compile_takes_the_layer_whole() -> None:
    p = prepared_layer(SMALL)
    x, routing = batch(SMALL, 17)
    arguments = ops.arguments(layer_of(p))

    def double(x: torch.Tensor) -> torch.Tensor:
        out = torch.ops.mxmoe.triton_moe(x, routing.ids, routing.weights, **arguments)
        return out * 2

    compiled = torch.compile(double, fullgraph=True, backend="aot_eager")
    assert same_bits(compiled(x), double(x))


@pytest.mark.parametrize("tokens", [0, 5])
def test_operators_pass_opcheck(tokens: int) -> None:
    p = prepared_layer(SMALL)
    x, routing = batch(SMALL, tokens)
    router = torch.randn(SMALL.experts, SMALL.hidden, device="cuda").bfloat16()
    arguments = ops.arguments(layer_of(p))
    torch.library.opcheck(
        torch.ops.mxmoe.triton_moe.default,
        (x, routing.ids, routing.weights),
        arguments,
    )
    torch.library.opcheck(
        torch.ops.mxmoe.triton_moe_fused.default, (x, router, None, 4, 1.0), arguments
    )
    torch.library.opcheck(torch.ops.mxmoe.triton_moe_route.default, (x.float(), 4))
