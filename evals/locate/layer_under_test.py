"""One layer and what it is judged on."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import replace

import torch

from mxmoe.conformance.bounds.own import Layer
from mxmoe.evals.inside.experts import CandidateExperts
from mxmoe.evals.locate.recorded_inputs import LayerInputs
from mxmoe.reference.types import WHOLE
from mxmoe.reference.types import Arithmetic
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Routing

# Stages and bounds of so many tokens are held at a time as take this much memory: truth
# and allowed of each stage twice (with inherited errors, and without), the candidate's,
# and the parts of the errors, in float64.
_STAGES_BYTES, _STAGE_COPIES = 2**30, 8
# Fewer hardly visit the experts of gpt-oss-120b.
_FEWEST_TOKENS = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerUnderTest:
    """Layer `number`: checkpoint weights, its inputs, the class it is judged in.

    experts : the candidate in its place, or None where only its stages are known.
    """

    number: int
    weights: ExpertWeights
    config: MoEConfig
    inputs: LayerInputs
    arithmetic: Arithmetic
    experts: CandidateExperts | None = None

    @property
    def candidate(self) -> CandidateExperts:
        """The candidate, where there is one to call."""
        assert self.experts is not None
        return self.experts

    def layer(self) -> Layer:
        """For the bounds."""
        return Layer(
            part=self.weights,
            config=self.config,
            hidden_states=self.inputs.hidden_states,
            routing=self.inputs.routing,
            shard=WHOLE,
            arithmetic=self.arithmetic,
        )

    def of_tokens(self, rows: torch.Tensor) -> LayerUnderTest:
        """With some of the inputs' tokens."""
        return replace(self, inputs=self.inputs.rows(rows))

    def layer_of(self, hidden_states: torch.Tensor, routing: Routing) -> Layer:
        """The same with other inputs [t, h] and routing [t, k]."""
        layer = replace(self.layer(), hidden_states=hidden_states, routing=routing)
        config = replace(self.config, top_k=routing.ids.shape[1])
        return replace(layer, config=config)


def forward(under: LayerUnderTest, inputs: LayerInputs) -> torch.Tensor:
    """The candidate's output [t, h] in float64, on the CPU; raises `Failure`."""
    subject = under.candidate.subject
    out = subject.forward(
        under.candidate.prepared,
        inputs.hidden_states.to(subject.device),
        inputs.routing.clone().to(subject.device),
    )
    return out.detach().to("cpu", torch.float64)


def tokens_at_once(config: MoEConfig) -> int:
    """Tokens of which all stages and bounds are held at a time."""
    width = 3 * config.intermediate + config.hidden
    each = 8 * config.top_k * width * _STAGE_COPIES
    return max(_FEWEST_TOKENS, _STAGES_BYTES // each)
