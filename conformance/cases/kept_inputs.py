"""The inputs that a bundle kept: a case need not be drawn again from its seed."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import replace

import torch

from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.designed import CaseData
from mxmoe.reference.checkpoint import Checkpoint
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Routing

CASE, BYTES, LAYER = "case", "bytes", "layer"
"""What was kept: a whole case, the any-bytes weights of one, a layer's weights."""


@dataclass(frozen=True)
class Source:
    """Where inputs come from: `kind` of what, `word` its case or layer number."""

    kind: str
    word: str


@dataclass(frozen=True, kw_only=True)
class KeptInputs:
    """Weights, and for a whole case hidden states and routing, as they were.

    checkpoint : stands in for the run's own, which need not exist any more; it has
    its shape and number of layers, and no files.
    """

    source: Source
    weights: ExpertWeights
    checkpoint: Checkpoint
    hidden_states: torch.Tensor | None = None
    routing: Routing | None = None

    def layer(self, layer: int) -> tuple[MoEConfig, ExpertWeights] | None:
        """The weights of that layer of the checkpoint, if these are they."""
        if self.source.kind == LAYER:
            fits = self.source.word == str(layer)
        else:
            fits = self.source.word.startswith(f"layer{layer}/")
        return (self.checkpoint.config, self.weights) if fits else None

    def bytes_of(self, case: Case) -> ExpertWeights | None:
        """The weights of `case` where any bytes will do, if these are they."""
        return self.weights if self.source == Source(BYTES, str(case)) else None

    def data(self, case: Case, made: CaseData) -> CaseData:
        """`made`, or what was kept in its place."""
        if self.source != Source(CASE, str(case)):
            return made
        assert self.hidden_states is not None
        assert self.routing is not None
        return replace(
            made,
            weights=self.weights,
            hidden_states=self.hidden_states.to(made.hidden_states.dtype),
            routing=self.routing,
        )
