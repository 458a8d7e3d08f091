"""Why a traced activation is wrong: what else was made of the traced gate and up.

An output may hide it: what is wrong by little where a sigmoid is almost 0 is within the
bound of the output, and out of its own.
"""

from __future__ import annotations

import torch

from mxmoe.conformance.bounds import Judged
from mxmoe.conformance.bounds import half_ulp
from mxmoe.conformance.why_numbers.expert_content import RIGHT
from mxmoe.conformance.why_numbers.layer_steps import Situation
from mxmoe.conformance.why_numbers.otherwise_activations import activations_otherwise
from mxmoe.reference.types import Arithmetic

Tensor = torch.Tensor


def explain_activation(
    stages: dict[str, Tensor], judged: Judged, s: Situation, arithmetic: Arithmetic
) -> list[str]:
    """Activations that give what was traced, within its bound; [] if none does.

    stages : a trace whose gate_up, if it is there, is within its bound.
    """
    truth, allowed = judged.truth["activation"], judged.allowed["activation"]
    found = stages["activation"].detach().cpu().double().reshape(truth.shape)
    inputs = stages.get("gate_up", judged.truth["gate_up"]).detach().cpu().double()
    inputs = inputs.reshape(judged.truth["gate_up"].shape)
    owned = torch.tensor(list(s.shard.expert_range(s.config)))
    served = torch.isin(s.routing.ids, owned.to(s.routing.ids.dtype))
    nothing = torch.zeros(inputs.shape[-1], dtype=torch.float64)
    names = []
    # What the right one explains within the same room, no other one is needed for.
    for otherwise in (RIGHT, *activations_otherwise(1)):
        told = otherwise.steps.gated(inputs[served], nothing, s.config.activation)
        room = allowed[served] + 2 * half_ulp(told, arithmetic.intermediate)
        if bool(((found[served] - told).abs() <= room).all()):
            if otherwise is RIGHT:
                return []
            names.append(otherwise.name)
    return names
