"""`forward_fused` of a candidate that has one: routing inside, away from ties.

The model is served by `forward`; an engine that calls the fused entry is served by this
one. A token whose k-th and next logit are closer than their error is not judged.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from mxmoe.conformance.bounds.fused import clear_choices
from mxmoe.conformance.bounds.fused import judge_whole_layer
from mxmoe.evals.locate.divergence import Divergence
from mxmoe.evals.locate.divergence import first_divergence
from mxmoe.evals.locate.evaluations import Evaluations
from mxmoe.evals.locate.layer_under_test import LayerUnderTest
from mxmoe.evals.locate.layer_under_test import tokens_at_once


def fused_divergence(
    under: LayerUnderTest, count: Evaluations
) -> tuple[LayerUnderTest, Divergence] | None:
    """The tokens that were judged, and the first that is wrong; None if none is.

    As many tokens as stages are held of. Raises `Failure` as `forward_fused` does.
    """
    candidate, w, config = under.candidate, under.weights, under.config
    subject, arithmetic = candidate.subject, under.arithmetic
    x = under.inputs.hidden_states[: tokens_at_once(config)]
    choices = clear_choices(w, config, x, arithmetic)
    clear = choices.clear.nonzero()[:, 0]
    if not len(clear):
        return None
    inputs = replace(under.inputs.rows(clear), routing=choices.routing)
    count.fused += 1
    device = subject.device
    returned = subject.call(
        "forward_fused",
        candidate.weights,
        inputs.hidden_states.to(device),
        w.router_weight.to(device),
        None if w.router_bias is None else w.router_bias.to(device),
        config.top_k,
    )
    out = subject.checked_output("forward_fused", returned, inputs.hidden_states.shape)
    dtype = subject.capabilities.routing_dtype()
    judged = judge_whole_layer(w, config, x, choices, arithmetic, dtype)
    found = first_divergence(
        "combine",
        out.detach().to("cpu", torch.float64),
        judged.truth["combine"],
        judged.allowed["combine"],
        choices.routing,
    )
    return None if found is None else (replace(under, inputs=inputs), found)
