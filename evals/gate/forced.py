"""A candidate under teacher forcing, against the same model with other experts.

Three numbers a run. *nll*: mean -ln p of the right answers' tokens. *agreement*: the
share of these places where both models find the same token most likely. *shift*: how
far the margin of the right token moved, in nats,

    shift = sqrt(mean of (ln s - ln s')²),   s = -ln p of the right token, s' theirs

For a sure model s is nearly exp(-margin), the margin being how far the right token's
logit lies above the others, so that ln s - ln s' is the difference of the margins. The
mean of s itself is ruled by the few tokens that a model is not sure of: it fell, from
2.8e-3 to 2.6e-3, when the down biases of the last layer were dropped, which moves the
margins by 1.5.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mxmoe.evals.gate.verdict import Conclusion
from mxmoe.evals.gate.verdict import GateVerdict
from mxmoe.evals.inside.teacher_forced import Forced

# In nats, by dtype of the model around the experts. Four times the largest shift of
# the bundled candidates on the shipped model against transformers' own experts
# (docs/gate.md has them): their errors are rounding, so a correct kernel with another
# rounding point more, which adds as much variance again, stays at 1.4 times.
LIMITS = {"float32": 0.1, "bfloat16": 0.4}
# -ln p of a token whose margin is 27: float32 logits of some tens do not resolve more.
_SUREST = 1e-12


@dataclass(frozen=True, kw_only=True)
class ForcedLine:
    """One question: sums over its answer's tokens, of candidate and other experts."""

    question: int
    tokens: int
    nll: float
    other_nll: float
    squared_shift: float
    disagreements: int


@dataclass(frozen=True, kw_only=True)
class ForcedScore:
    """nll, other_nll : nats a token. agreement : a share. shift : nats."""

    questions: int
    tokens: int
    nll: float
    other_nll: float
    agreement: float
    shift: float


def line_of(question: int, mine: Forced, other: Forced) -> ForcedLine:
    """Compare one question's answer, token by token."""
    ours, theirs = (-np.array(found.logprobs) for found in (mine, other))
    moved = np.log(np.maximum(ours, _SUREST)) - np.log(np.maximum(theirs, _SUREST))
    return ForcedLine(
        question=question,
        tokens=len(ours),
        nll=float(ours.sum()),
        other_nll=float(theirs.sum()),
        squared_shift=float((moved**2).sum()),
        disagreements=sum(a != b for a, b in zip(mine.top, other.top, strict=True)),
    )


def score_of(lines: Sequence[ForcedLine]) -> ForcedScore:
    """Over all questions, each token counted once."""
    tokens = sum(line.tokens for line in lines)
    return ForcedScore(
        questions=len(lines),
        tokens=tokens,
        nll=sum(line.nll for line in lines) / tokens,
        other_nll=sum(line.other_nll for line in lines) / tokens,
        agreement=1 - sum(line.disagreements for line in lines) / tokens,
        shift=math.sqrt(sum(line.squared_shift for line in lines) / tokens),
    )


def conclude_forced(
    found: ForcedScore, *, limit: float, did_not_run: str | None = None
) -> Conclusion:
    """PASS within the limit; a shift that is no number fails."""
    if did_not_run is not None:
        return Conclusion(GateVerdict.INVALID, (did_not_run,))
    sentence = (
        f"margins of the right tokens moved by {found.shift:.3g} nats, "
        f"at most {limit:g} is rounding"
    )
    passed = found.shift <= limit
    return Conclusion(GateVerdict.PASS if passed else GateVerdict.FAIL, (sentence,))


def table(found: ForcedScore) -> Mapping[str, str]:
    """For a person: name -> value with its unit."""
    return {
        "nll": f"{found.nll:.6g} nats a token, other experts {found.other_nll:.6g}",
        "top-1": f"{100 * found.agreement:.3f} % of {found.tokens} tokens agree",
        "shift": f"{found.shift:.3g} nats",
    }
