"""Two inputs that a law compares, and smaller pairs that say what broke it."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace

import torch

from mxmoe.conformance.cases.designed import CaseData
from mxmoe.reference.types import ExpertWeights

Tensor = torch.Tensor

HIDDEN_STATES, ROUTING_WEIGHTS, DOWN_BIAS = (
    "hidden states",
    "routing weights",
    "down bias",
)
"""Quantities that a law may scale; see `Pair.scaled`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """Pairs that change a part of what the law changes: which of them are broken too?

    says : the sentence, with {} for the names of the broken ones. pairs : by name, in
    order. first : each changes more than the one before, so the first one says all.
    """

    says: str
    pairs: Iterable[tuple[str, Pair]]
    first: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """Two inputs, and what the output of the first says about that of the second.

    expect : linear, [t, h] of `before` -> [n, h]. rows : the n rows of the second
    output that it speaks of. scaled : what the second input multiplies each of these
    quantities by. placed : whether tokens stand in another place or batch there.
    """

    before: CaseData
    after: CaseData
    expect: Callable[[Tensor], Tensor] = lambda out: out
    rows: slice = field(default_factory=lambda: slice(None))
    scaled: Mapping[str, float] = field(default_factory=dict)
    questions: Callable[[], Iterable[Question]] = tuple
    placed: bool = False


def edited(
    weights: ExpertWeights, **edits: Callable[[Tensor], Tensor]
) -> ExpertWeights:
    """With each tensor of this name that there is edited."""
    present = weights.tensors()
    made = {n: edit(present[n]) for n, edit in edits.items() if n in present}
    return replace(weights, **made)
