"""The reference in the place of transformers' experts: decoded weights, float32.

A layer that a candidate does not serve is computed here. Small models keep their
weights decoded; of large ones each call decodes the experts that it visits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field

import torch

from mxmoe.reference.activation import activate
from mxmoe.reference.formats import decode
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig

# Decoded weights of a whole model that are kept: 2**28 bytes. The shipped model has
# 4 layers of 8 experts of 192 x 480 float32, 12 MB; gpt-oss-20b has 76 GB.
_KEPT_BYTES = 2**28


@dataclass(frozen=True, kw_only=True, eq=False)
class ReferenceExperts:
    """One layer.

    read : its weights in checkpoint order, on the device where they are used. keep :
    whether an expert that was decoded once stays so.
    """

    read: Callable[[], ExpertWeights]
    config: MoEConfig
    keep: bool
    decoded: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)

    def forward(
        self, hidden_states: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """[t, h], global ids [t, k] with -1 for no expert, [t, k] -> float32 [t, h]."""
        x = hidden_states.float()
        out = torch.zeros_like(x)
        w = self.read()
        for expert in ids[ids >= 0].unique().tolist():
            token, slot = (ids == expert).nonzero(as_tuple=True)
            w1, w2 = self._matrices(w, expert)
            gate_up = x[token] @ w1.T
            if w.gate_up_bias is not None:
                gate_up = gate_up + w.gate_up_bias[expert].float()
            down = activate(gate_up, self.config.activation) @ w2.T
            if w.down_bias is not None:
                down = down + w.down_bias[expert].float()
            out.index_add_(0, token, weights[token, slot].float()[:, None] * down)
        return out

    def _matrices(
        self, w: ExpertWeights, expert: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if expert in self.decoded:
            return self.decoded[expert]
        high = torch.float32
        pair = (
            decode(w.gate_up_blocks[expert], w.gate_up_scales[expert], high),
            decode(w.down_blocks[expert], w.down_scales[expert], high),
        )
        if self.keep:
            self.decoded[expert] = pair
        return pair


def small_enough(config: MoEConfig, layers: int) -> bool:
    """Whether the decoded weights of the whole model are kept."""
    elements = 3 * config.experts * config.hidden * config.intermediate
    return 4 * elements * layers <= _KEPT_BYTES
