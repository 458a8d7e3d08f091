"""What enters each layer when the reference serves the whole model.

The candidate is judged on these in every layer, so that no layer inherits an error of
the one before. They take 2 bytes a layer, token and hidden element: 207 kB a token of
gpt-oss-120b (36 layers of 2880).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mxmoe.conformance.subject import Subject
from mxmoe.conformance.verdict import Failure
from mxmoe.conformance.verdict import Verdict
from mxmoe.evals.inside.swap import Heard
from mxmoe.evals.inside.swap import Swap
from mxmoe.reference.types import Routing

# The prompt of rows that come from none.
PROBE = -1
# Rows that visit each expert, so that a cause can be fitted to them.
_PROBES_AN_EXPERT = 8


@dataclass(frozen=True, order=True)
class Token:
    """Token number `position` of prompt number `prompt`, or of the probes."""

    prompt: int
    position: int

    def __str__(self) -> str:
        if self.prompt == PROBE:
            return f"probe row {self.position}"
        prompt = f"prompt {self.prompt} " if self.prompt else ""
        return f"{prompt}token {self.position}"


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerInputs:
    """One layer's: hidden_states [t, h] in the dtype that the candidate gets them in.

    routing : ids int32 [t, k]; weights float32 [t, k], in the values of the dtype that
    it declares for them. tokens : whose row each is.
    """

    hidden_states: torch.Tensor
    routing: Routing
    tokens: tuple[Token, ...]

    def rows(self, index: torch.Tensor) -> LayerInputs:
        """Those of some rows."""
        return LayerInputs(
            hidden_states=self.hidden_states[index],
            routing=Routing(self.routing.ids[index], self.routing.weights[index]),
            tokens=tuple(self.tokens[n] for n in index.tolist()),
        )


def record_inputs(
    swap: Swap, prompts: Sequence[Sequence[int]]
) -> tuple[LayerInputs, ...]:
    """One pass for each prompt of token ids; the inputs of each layer, on the CPU.

    Raises `Failure` (nonfinite) where the model makes NaN or infinity by itself.
    """
    kept: list[list[LayerInputs]] = [[] for _ in swap.layers]
    swap.serve(())
    subject = swap.inside.subject
    for number, ids in enumerate(prompts):
        tokens = tuple(Token(number, position) for position in range(len(ids)))
        for layer, parts in zip(swap.layers, kept, strict=True):
            layer.heard = _keeper(parts, tokens, subject)
        try:
            with torch.no_grad():
                device = swap.inside.loaded.model.get_input_embeddings().weight.device
                given = torch.tensor([list(ids)], device=device)
                swap.inside.loaded.model.model(input_ids=given, use_cache=False)
        finally:
            for layer in swap.layers:
                layer.heard = None
    inputs = tuple(_joined(parts) for parts in kept)
    for number, layer_inputs in enumerate(inputs):
        if not layer_inputs.hidden_states.isfinite().all():
            raise Failure(
                Verdict.NONFINITE,
                f"layer {number}: the hidden states are not finite although the "
                "reference served all layers before it: the model, or a prompt, "
                "does it without the candidate",
            )
    return inputs


def as_given(
    subject: Subject,
    x: torch.Tensor,
    ids: torch.Tensor,
    weights: torch.Tensor,
    tokens: tuple[Token, ...],
) -> LayerInputs:
    """The inputs of a call as the candidate is given them, on the CPU."""
    declared = subject.capabilities.routing_dtype()
    return LayerInputs(
        hidden_states=x.detach().to("cpu", subject.arithmetic.output),
        routing=Routing(
            ids.detach().to("cpu", torch.int32),
            weights.detach().to(declared).float().cpu(),
        ),
        tokens=tokens,
    )


def with_probes(inputs: LayerInputs, experts: int, *, seed: int = 0) -> LayerInputs:
    """`inputs`, and behind them rows that visit every expert of the layer 8 times.

    A prompt does not reach every expert of every layer. The probes' columns are
    normal, as wide as those of the recorded rows.
    """
    random = torch.Generator().manual_seed(seed)
    x, k = inputs.hidden_states, inputs.routing.ids.shape[1]
    count = -(-_PROBES_AN_EXPERT * experts // k)
    drawn = torch.randn(count, x.shape[1], generator=random)
    wide = x.float().square().mean(dim=0).sqrt()
    walk = torch.arange(count * k).reshape(count, k) % experts
    order = torch.randperm(experts, generator=random)
    ids = order[walk].to(torch.int32)
    weights = torch.full((count, k), 1 / k, dtype=torch.float32)
    probes = LayerInputs(
        hidden_states=(drawn * wide).to(x.dtype),
        routing=Routing(ids, weights),
        tokens=tuple(Token(PROBE, n) for n in range(count)),
    )
    return _joined([inputs, probes])


def _keeper(
    parts: list[LayerInputs], tokens: tuple[Token, ...], subject: Subject
) -> Heard:
    def keep(
        x: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor, _out: torch.Tensor
    ) -> None:
        parts.append(as_given(subject, x, ids, weights, tokens))

    return keep


def _joined(parts: Sequence[LayerInputs]) -> LayerInputs:
    return LayerInputs(
        hidden_states=torch.cat([p.hidden_states for p in parts]),
        routing=Routing(
            torch.cat([p.routing.ids for p in parts]),
            torch.cat([p.routing.weights for p in parts]),
        ),
        tokens=tuple(token for p in parts for token in p.tokens),
    )
