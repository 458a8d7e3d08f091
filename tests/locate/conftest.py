"""One layer of the shipped model, and an honest loop over experts to be changed.

What needs transformers is imported where it is used: without it the tests skip.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING
from typing import Any

import pytest
import torch

from mxmoe.conformance.faults.plain import subject_of
from mxmoe.evals.grade_school.model import FOLDER
from mxmoe.reference.checkpoint import open_checkpoint
from mxmoe.reference.formats import decode
from mxmoe.reference.types import WHOLE
from mxmoe.reference.types import Activation
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import Routing

if TYPE_CHECKING:
    from mxmoe.evals.locate.layer import LayerResult
    from mxmoe.evals.locate.layer_under_test import LayerUnderTest
    from mxmoe.evals.locate.recorded_inputs import LayerInputs

CHECKPOINT = open_checkpoint(FOLDER)
CONFIG, WEIGHTS = CHECKPOINT.config, CHECKPOINT.layer(2)
TOKENS = 48


def _same(x: Any, *rest: Any) -> Any:
    return x


@dataclass(kw_only=True)
class Loop:
    """An honest loop over experts in float32, with a change at one of its points.

    weights : of a clone. gather, activated, down : (rows, expert) of a stage. mix :
    (routing weights, ids). up : the clamp of the up half. out : the sum.
    """

    weights: Callable[[ExpertWeights], None] = _same
    activation: Activation = CONFIG.activation
    up: tuple[float, float] | None = None
    gather: Callable[..., torch.Tensor] = _same
    activated: Callable[..., torch.Tensor] = _same
    down: Callable[..., torch.Tensor] = _same
    mix: Callable[..., torch.Tensor] = _same
    out: Callable[[torch.Tensor], torch.Tensor] = _same
    traced: bool = True
    name: str = "loop"

    def __post_init__(self) -> None:
        self.capabilities = {"arithmetic": "w4a16_fp32acc"}
        if self.traced:
            self.trace = self._stages

    def prepare(self, weights: ExpertWeights, *rest: Any) -> dict[str, torch.Tensor]:
        w = weights.clone()
        self.weights(w)
        return {
            "w1": decode(w.gate_up_blocks, w.gate_up_scales).float(),
            "w2": decode(w.down_blocks, w.down_scales).float(),
            "b1": w.gate_up_bias.float(),
            "b2": w.down_bias.float(),
        }

    def forward(self, p: Any, x: Any, routing: Routing, *, tactic: Any = None) -> Any:
        return self._stages(p, x, routing)["combine"]

    def _stages(self, p: Any, x: Any, routing: Routing) -> dict[str, torch.Tensor]:
        t, k = routing.ids.shape
        lanes, hidden = CONFIG.intermediate, CONFIG.hidden
        stages = {
            "gate_up": torch.zeros(t, k, 2 * lanes),
            "activation": torch.zeros(t, k, lanes),
            "down": torch.zeros(t, k, hidden),
        }
        for e in range(CONFIG.experts):
            at = routing.ids == e
            if not at.any():
                continue
            rows = self.gather(x[at.any(dim=1)].float(), e, x.float())
            z = rows @ p["w1"][e].T + p["b1"][e]
            a = self.activated(self._activate(z).bfloat16().float(), e)
            stages["gate_up"][at], stages["activation"][at] = z, a
            stages["down"][at] = self.down(a @ p["w2"][e].T + p["b2"][e], e)
        weights = torch.where(routing.ids >= 0, routing.weights, 0)
        mixed = self.mix(weights, routing.ids)
        out = torch.einsum("tk,tkh->th", mixed, stages["down"])
        return {**stages, "combine": self.out(out).to(x.dtype)}

    def _activate(self, z: torch.Tensor) -> torch.Tensor:
        own = self.activation
        low, high = self.up or (-own.limit, own.limit)
        gate, up = z[:, 0::2].clamp(max=own.limit), z[:, 1::2].clamp(low, high)
        return gate * torch.sigmoid(own.alpha * gate) * (up + own.beta)


@pytest.fixture(scope="module")
def inputs() -> LayerInputs:
    """Drawn rows that visit each expert 24 times, in slots that move."""
    from mxmoe.evals.locate.recorded_inputs import LayerInputs
    from mxmoe.evals.locate.recorded_inputs import Token

    random = torch.Generator().manual_seed(8)
    x = 1.6 * torch.randn(TOKENS, CONFIG.hidden, generator=random)
    order = torch.rand(TOKENS, CONFIG.experts, generator=random)
    weights = torch.rand(TOKENS, CONFIG.top_k, generator=random).softmax(dim=1)
    return LayerInputs(
        hidden_states=x.bfloat16(),
        routing=Routing(order.topk(CONFIG.top_k).indices.int(), weights),
        tokens=tuple(Token(0, n) for n in range(TOKENS)),
    )


def _under(candidate: object, inputs: LayerInputs) -> LayerUnderTest:
    from mxmoe.evals.inside.experts import CandidateExperts
    from mxmoe.evals.inside.experts import PreparedLayer
    from mxmoe.evals.locate.layer_under_test import LayerUnderTest

    subject = replace(subject_of(candidate), device_request="cpu")
    prepared = subject.prepare(WEIGHTS, CONFIG, subject.capabilities.align(WHOLE))
    return LayerUnderTest(
        number=2,
        weights=WEIGHTS,
        config=CONFIG,
        inputs=inputs,
        arithmetic=subject.arithmetic,
        experts=CandidateExperts(
            subject=subject,
            layer=lambda: PreparedLayer(weights=prepared, given=prepared),
            finite=torch.ones((), dtype=torch.bool),
        ),
    )


@pytest.fixture
def loop() -> type[Loop]:
    return Loop


@pytest.fixture
def under(inputs: LayerInputs) -> Callable[[object], LayerUnderTest]:
    return partial(_under, inputs=inputs)


@pytest.fixture
def judged(inputs: LayerInputs) -> Callable[[object], LayerResult]:
    from mxmoe.evals.locate.evaluations import Evaluations
    from mxmoe.evals.locate.layer import judge_layer

    return lambda candidate: judge_layer(_under(candidate, inputs), Evaluations())
