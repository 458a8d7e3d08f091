"""Why the output of `forward_fused` is wrong: other routing of the same hidden states.

Routing happens inside, so it is seen by what the experts were added with only. Each
hypothesis is another choice of experts or other weights, from the router's own logits;
what is wrong behind the routing has the causes that any output has.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from mxmoe.conformance.bounds.compare_numbers import compare_numbers
from mxmoe.conformance.bounds.propagated import Judged
from mxmoe.conformance.why_numbers.causes import causes
from mxmoe.conformance.why_numbers.layer_steps import Situation
from mxmoe.conformance.why_numbers.routing import other_choices
from mxmoe.conformance.why_numbers.routing import other_weights
from mxmoe.reference.routing import router_logits
from mxmoe.reference.types import Arithmetic
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import Routing

Tensor = torch.Tensor
# Sentences that are printed.
_SHOWN = 4
# Errors of the logits make those of the routing weights a little larger than what is
# allowed where they are given.
_ROOM = 1.5


def why_fused(
    out: Tensor,
    s: Situation,
    weights: ExpertWeights,
    judged: Judged,
    arithmetic: Arithmetic,
) -> list[str]:
    """The line that says what `out` [t, h] behaves like.

    s : with the right routing. weights : the layer's, router included.
    """
    truth, allowed = judged.truth["combine"], judged.allowed["combine"]
    found = out.detach().cpu().double().reshape(truth.shape)
    names = _routed_otherwise(found, s, weights, (truth, allowed), arithmetic)
    if not names:
        names = list(map(str, causes(s, judged, found, arithmetic)))
    if not names:
        return ["why    none of the known hypotheses gives this output"]
    return [f"why    behaves as if: {'; or '.join(names[:_SHOWN])}"]


def _routed_otherwise(
    found: Tensor,
    s: Situation,
    weights: ExpertWeights,
    right: tuple[Tensor, Tensor],
    arithmetic: Arithmetic,
) -> list[str]:
    """The other routings under which `found` is within the bound everywhere."""
    truth, allowed = right
    if not found.numel() or not found.isfinite().all():
        return []
    ratio = ((found - truth).abs() / allowed.clamp(min=_TINY)).amax(dim=1)
    worst = int(ratio.argmax())
    at = slice(worst, worst + 1)
    names = []
    for name, routing in _routings(s, weights):
        # One token refutes almost every hypothesis.
        other = replace(s, routing=routing)
        if _gives(found[at], other.of_tokens(at), arithmetic) and _gives(
            found, other, arithmetic
        ):
            names.append(name)
    return names


_TINY = torch.finfo(torch.float64).tiny


def _gives(found: Tensor, s: Situation, arithmetic: Arithmetic) -> bool:
    told, room = s.judged(arithmetic)
    return compare_numbers(found, told, _ROOM * room).within


def _routings(s: Situation, weights: ExpertWeights) -> Iterator[tuple[str, Routing]]:
    """Other routings by the logits as they are, and the right one of other logits."""
    x, w = s.hidden_states.double(), weights.router_weight.double()
    bias = weights.router_bias
    logits, top_k = router_logits(x, w, bias), s.config.top_k
    ids = s.routing.ids.long()
    for words, given in _shortened(logits.gather(1, ids)):
        yield words, _routing(s, ids, given)
    for words, given in other_weights(logits, ids):
        yield words, _routing(s, ids, given)
    other = list(other_choices(logits, ids.shape[1]))
    if bias is not None:
        plain = router_logits(x, w, None)
        other.insert(0, ("router bias ignored", plain))
        other.append(("router bias added twice", 2 * logits - plain))
        other.append(("router bias subtracted", 2 * plain - logits))
        yield (
            "router bias used for the choice, and not for the weights",
            _routing(s, ids, plain.gather(1, ids).softmax(dim=1)),
        )
        yield (
            "router bias used for the weights, and not for the choice",
            _routing(s, *_chosen_by(plain, logits, top_k)),
        )
    for words, edited in other:
        chosen = edited.topk(top_k, dim=1)
        kept = chosen.values if words.startswith("router") else logits
        if kept is logits:
            kept = logits.gather(1, chosen.indices)
        yield words, _routing(s, chosen.indices, kept.softmax(dim=1))


def _chosen_by(chosen: Tensor, weighed: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Ids by one kind of logits [t, e], weights by another."""
    ids = chosen.topk(top_k, dim=1).indices
    return ids, weighed.gather(1, ids).softmax(dim=1)


def _shortened(chosen: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Fewer slots than were chosen [t, k], largest logit first."""
    k = chosen.shape[1]
    truth = chosen.softmax(dim=1)
    counts = {1: "only the first slot added", k - 1: "last slot dropped"}
    for kept, words in counts.items():
        if 0 < kept < k:
            cut = truth * (torch.arange(k) < kept)
            yield words, cut
            normal = cut / cut.sum(dim=1, keepdim=True)
            yield f"{words}, and what is left made to sum to 1", normal


def _routing(s: Situation, ids: Tensor, weights: Tensor) -> Routing:
    scaled = s.config.routed_scaling * weights
    own = s.routing
    return Routing(ids.to(own.ids.dtype), scaled.to(own.weights.dtype))
