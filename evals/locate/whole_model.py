"""The candidate in the model itself: what its places do to the logits, and its calls.

A layer that is right alone may be wrong in the model: on the second call, in a call of
one token, after another layer's call. Each call in the model is judged on the inputs
that it had there.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import DynamicCache

from mxmoe.conformance.bounds.propagated import judge_rank
from mxmoe.evals.inside.swap import Heard
from mxmoe.evals.inside.swap import Place
from mxmoe.evals.inside.swap import Swap
from mxmoe.evals.locate.divergence import Divergence
from mxmoe.evals.locate.divergence import first_divergence
from mxmoe.evals.locate.evaluations import Evaluations
from mxmoe.evals.locate.recorded_inputs import LayerInputs
from mxmoe.evals.locate.recorded_inputs import Token
from mxmoe.evals.locate.recorded_inputs import as_given
from mxmoe.reference.types import WHOLE

# Tokens that are generated one by one while the calls are judged.
_STEPS = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class WrongCall:
    """A call that was wrong in the model: its layer, inputs and divergence."""

    layer: int
    inputs: LayerInputs
    divergence: Divergence


def first_wrong_call(
    swap: Swap, prompt: Sequence[int], count: Evaluations
) -> WrongCall | None:
    """The candidate serves everything; the prompt, then 8 tokens one at a time."""
    swap.serve(swap.everything)
    found: list[WrongCall] = []
    given = [list(prompt)]
    position = 0
    cache = DynamicCache(config=swap.inside.loaded.model.config)
    try:
        for _ in range(1 + _STEPS):
            width = len(given[0])
            tokens = tuple(Token(0, position + n) for n in range(width))
            for number, layer in enumerate(swap.layers):
                layer.heard = _judging(swap, number, tokens, found)
            logits = _pass(swap, given, cache, count)
            if found:
                return found[0]
            position += width
            given = [[int(logits[0, -1].argmax())]]
    finally:
        for layer in swap.layers:
            layer.heard = None
    return None


def _judging(
    swap: Swap, number: int, tokens: tuple[Token, ...], found: list[WrongCall]
) -> Heard:
    subject = swap.layers[number].candidate.subject
    checkpoint = swap.inside.loaded.checkpoint

    def judge(
        x: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor, out: torch.Tensor
    ) -> None:
        if found:
            return
        inputs = as_given(subject, x, ids, weights, tokens)
        judged = judge_rank(
            checkpoint.layer(number),
            checkpoint.config,
            inputs.hidden_states,
            inputs.routing,
            shard=WHOLE,
            arithmetic=subject.arithmetic,
        )
        divergence = first_divergence(
            "combine",
            out,
            judged.truth["combine"],
            judged.allowed["combine"],
            inputs.routing,
        )
        if divergence is not None:
            call = WrongCall(layer=number, inputs=inputs, divergence=divergence)
            found.append(call)

    return judge


def _pass(
    swap: Swap, ids: Sequence[Sequence[int]], cache: object, count: Evaluations
) -> torch.Tensor:
    count.model_passes += 1
    model = swap.inside.loaded.model
    device = model.get_input_embeddings().weight.device
    given = torch.tensor([list(row) for row in ids], device=device)
    with torch.no_grad():
        logits: torch.Tensor = model(
            input_ids=given, past_key_values=cache, use_cache=cache is not None
        ).logits
    return logits


@dataclass(frozen=True, kw_only=True)
class LogitDistances:
    """How far the logits are from the reference's, relative to their spread.

    everywhere : with the candidate in all places. without : in all but the wrong ones.
    """

    everywhere: float
    without: float


def logit_distances(
    swap: Swap, prompt: Sequence[int], wrong: Iterable[Place], count: Evaluations
) -> LogitDistances:
    """Three passes of one prompt; raises `Failure` as the candidate does."""
    logits = []
    for places in ((), swap.everything, swap.everything - frozenset(wrong)):
        swap.serve(places)
        logits.append(_pass(swap, [prompt], None, count)[0].double())
    reference, everywhere, without = logits
    return LogitDistances(
        everywhere=_distance(everywhere, reference),
        without=_distance(without, reference),
    )


def _distance(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).square().mean().sqrt() / wanted.std())
