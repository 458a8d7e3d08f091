"""Why an output is wrong: slots that use a part of an expert of another number.

The number is not an expert's own mapping (`explain_exchanged`), but comes from wrong
index arithmetic: the slot, the token, the expert of another slot. What each slot would
give with the part of each expert is computed once.
"""

from __future__ import annotations

import torch

from mxmoe.conformance.why_numbers.expert_content import RIGHT
from mxmoe.conformance.why_numbers.expert_content import Experts
from mxmoe.conformance.why_numbers.layer_steps import Fit
from mxmoe.conformance.why_numbers.otherwise.one_thing import Wrong
from mxmoe.conformance.why_numbers.slots.exchanged import PARTS
from mxmoe.conformance.why_numbers.slots.exchanged import Part
from mxmoe.conformance.why_numbers.slots.gathers import meanings
from mxmoe.conformance.why_numbers.slots.gathers import rest_of_error
from mxmoe.conformance.why_numbers.slots.slot_sources import expert_sources

Tensor = torch.Tensor
_ASKED = (
    "contents",
    "gate_up weights, not the bias,",
    "gate_up bias",
    "down weights, not the bias,",
    "down bias",
)
# Experts by experts are computed, each with a multiple of these elements.
_MOST = 8
_LARGEST = 2**23


def explain_expert_index(wrong: Wrong) -> list[Fit]:
    """Each part and number under which the output is right."""
    experts = wrong.experts
    s = experts.situation
    ids, count = s.routing.ids, experts.count
    size = experts.count * (ids.numel() * wrong.found.shape[1])
    if not 1 < count <= _MOST or size > _LARGEST or not wrong.found.isfinite().all():
        return []
    own = ids.long() - experts.first
    served, bad = experts.weights != 0, wrong.bad.any(dim=1)
    sources = [
        (name, (flat.reshape(own.shape) - experts.first) % count, flat < 0)
        for name, flat in expert_sources(ids, s.config.experts)
    ]
    fits = []
    for part in (part for part in PARTS if part.name in _ASKED):
        table = _table(experts, part)
        for name, other, unknown in sources:
            known = ~(unknown.reshape(own.shape) & served).any(dim=1)
            if not bool(((other != own) & served)[known].any()):
                continue
            if not bool((known & bad).any()):
                continue
            rows = table.flatten(0, 1)[torch.arange(own.numel()), other.flatten()]
            left = rest_of_error(wrong, rows.reshape(wrong.slots.shape), known)
            if left is not None:
                words = f"{part.name} of {name}, not of its own{meanings(name)}"
                fits.append(Fit(words, left))
    return fits


def _table(experts: Experts, part: Part) -> Tensor:
    """What each slot adds with `part` of each expert: [t, k, e, h]."""
    s = experts.situation
    x, ids = s.hidden_states.double(), s.routing.ids - experts.first
    found = x.new_zeros(*ids.shape, experts.count, x.shape[1])
    for local in experts.visited():
        mine = ids == local
        rows, p = x[mine.nonzero()[:, 0]], experts.weights[mine][:, None]
        own = experts.content(local)
        for other in range(experts.count):
            content = part.take(own, experts.content(other))
            found[:, :, other][mine] = experts.rows(content, RIGHT.steps, rows, p)
    return found
