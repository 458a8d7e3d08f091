"""One MoE layer with its input: what a recipe draws and a candidate runs."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import replace

import torch

from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.designed import CaseData
from mxmoe.conformance.cases.designed import on_device
from mxmoe.conformance.judging.as_routing import as_routing
from mxmoe.conformance.subject import Subject
from mxmoe.conformance.verdict import Failure
from mxmoe.kernels.trtllm_gen import emulated
from mxmoe.reference.errors import BadInput
from mxmoe.reference.types import WHOLE
from mxmoe.reference.types import Routing


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """Weights and a batch.

    data : hidden states as floating [t, h], cast to what a candidate's class takes.
    logits : float32 [t, e] that `data.routing` follows from, or None where it has
    slots without an expert. unquantised : float32 [e, 2i, h] and [e, h, i] that the
    weights were made from, if they were. case : its hot spots say which inputs are
    views with gaps.
    """

    name: str
    data: CaseData
    logits: torch.Tensor | None
    unquantised: tuple[torch.Tensor, torch.Tensor] | None = None
    case: Case | None = None

    def hidden_states(self, dtype: torch.dtype) -> torch.Tensor:
        """[t, h] as a candidate that takes `dtype` sees them."""
        return self.data.hidden_states.to(dtype)


def run(subject: Subject, layer: Layer) -> torch.Tensor | None:
    """[t, h] in float32: prepare, route, forward once, as one rank; None: it failed.

    A loader without a forward is consumed by the emulated kernel. What a candidate
    overwrites is its own copy, and what it draws at random it draws alike every time.
    """
    torch.manual_seed(0)
    config = layer.data.config
    try:
        prepared = subject.prepare(layer.data.weights.clone(), config, WHOLE)
        data = replace(
            layer.data,
            hidden_states=layer.hidden_states(subject.arithmetic.output).clone(),
            routing=_routing(subject, layer),
        )
        if layer.case is not None:
            data = on_device(layer.case, data, torch.device("cpu"))
        if subject.has("forward"):
            out = subject.forward(prepared, data.hidden_states, data.routing)
        else:
            out = emulated.forward(prepared, data.hidden_states, data.routing)
    # The last four: the emulation, given bytes of another shape.
    except (Failure, BadInput, RuntimeError, ValueError, IndexError, KeyError):
        return None
    return out.detach().float()


def _routing(subject: Subject, layer: Layer) -> Routing:
    if layer.logits is None or not subject.has("route"):
        return layer.data.routing.clone()
    top_k = layer.data.config.top_k
    returned = subject.call("route", layer.logits.clone(), top_k)
    routing = as_routing(returned, tokens=len(layer.logits), top_k=top_k)
    return Routing(routing.ids.int(), routing.weights.float())
