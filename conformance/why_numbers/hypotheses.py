"""Why numbers differ: the fault hypothesis under which the found output is right.

Each hypothesis edits the input of the reference; if the found output lies within
the bound around *that* truth, the candidate behaves as if it made the edit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from mxmoe.conformance.bounds.compare_numbers import compare_numbers
from mxmoe.conformance.why_numbers.honest_size import part_left
from mxmoe.conformance.why_numbers.input_edits import Hypothesis
from mxmoe.conformance.why_numbers.input_edits import hypotheses as hypotheses
from mxmoe.conformance.why_numbers.layer_steps import Fit
from mxmoe.conformance.why_numbers.layer_steps import Layer
from mxmoe.conformance.why_numbers.layer_steps import Situation
from mxmoe.reference.types import Arithmetic
from mxmoe.reference.types import ExpertWeights

# All hypotheses together should take two seconds or three: bytes of W1 and W2, some of
# which are decoded for each of about 150 hypotheses. An expert costs what 2**13 bytes
# do, however small it is: 128 of 64 x 32 took two seconds.
LARGEST_SEARCH = 2**21
_EXPERT = 2**13

# A hypothesis with other scales may allow more; one that allows much more than the
# layer as it is fits anything. Twice 4 for scales two high in both matrices.
_WIDER = 64.0
# What allows no more than this part of the errors does tell something.
_TOLD = 2.0**-5
# Of the output's norm: beyond any bound of a class that takes bfloat16.
_NEAR = 2.0**-4
# As many columns of one token refute a hypothesis.
_COLUMNS = 64
_TINY = 1e-300


def explain_numbers(
    found: torch.Tensor, situation: Situation, arithmetic: Arithmetic
) -> list[str]:
    """The hypotheses under which `found` [t, h] is within the bound everywhere."""
    return [fit.name for fit in fits_of_numbers(found, situation, arithmetic)]


def fits_of_numbers(
    found: torch.Tensor,
    situation: Situation,
    arithmetic: Arithmetic,
    judged: tuple[torch.Tensor, torch.Tensor] | None = None,
    asked: Iterable[tuple[str, Hypothesis]] | None = None,
) -> list[Fit]:
    """As `explain_numbers`, with the part of the mean square of the errors left.

    judged : what `situation.judged` gives, if it is known. asked : other hypotheses.
    """
    if too_large(situation.part) or not bool(found.isfinite().all()):
        return []
    # A hypothesis is about every token: the worst one refutes almost all.
    truth, allowed = judged or situation.judged(arithmetic)
    got = found.detach().cpu().double().reshape(truth.shape)
    ratio = (got - truth).abs() / (allowed + _TINY)
    token, size = int(ratio.amax(dim=1).argmax()), float(allowed.max())
    worst = slice(token, token + 1)
    alone = situation.of_tokens(worst)
    columns = got[worst, :_COLUMNS]
    right = Layer(alone, arithmetic, columns=_COLUMNS)

    def near(hypothesis: Hypothesis) -> bool:
        """Whether it is worth deriving the bound: it looks like this input's truth."""
        edited = Layer(hypothesis(alone), arithmetic, like=right, columns=_COLUMNS)
        truth = edited.output()
        slack = _NEAR * truth.norm() + 2 * size * math.sqrt(truth.numel())
        return bool((columns - truth).norm() <= slack)

    def right_there(hypothesis: Hypothesis) -> bool:
        """As `_fits` of the worst token, whose bound takes no other token."""
        return compare_numbers(got[worst], *hypothesis(alone).judged(arithmetic)).within

    named = []
    for name, hypothesis in hypotheses(situation) if asked is None else asked:
        if near(hypothesis) and right_there(hypothesis):
            told, room = hypothesis(situation).judged(arithmetic)
            rest = got - told
            # Weights of empty slots are large by design: so are the errors, then.
            large = room.norm() <= _TOLD * (got - truth).norm()
            if _fits(found, told, room, math.inf if large else _WIDER * size):
                named.append(Fit(name, part_left(rest, got - truth, allowed)))
    return named


def _fits(
    found: torch.Tensor, truth: torch.Tensor, allowed: torch.Tensor, at_most: float
) -> bool:
    """Whether `found` is right for this truth. What allows too much tells nothing."""
    told = bool((allowed <= at_most).all())
    return told and compare_numbers(found, truth, allowed).within


def too_large(part: ExpertWeights, most: int = LARGEST_SEARCH) -> bool:
    """Whether a search would take much longer than a second."""
    size = part.gate_up_blocks.numel() + part.down_blocks.numel()
    return size + _EXPERT * len(part.down_blocks) > most
