"""A row that was computed from another token's hidden state."""

from __future__ import annotations

import torch

from mxmoe.conformance.bounds.own import judge_own
from mxmoe.evals.locate.divergence import Divergence
from mxmoe.evals.locate.explained import SLACK
from mxmoe.evals.locate.layer import LayerResult
from mxmoe.reference.types import Routing

# Tokens that a row may have come from, and rows that are looked up.
_TOKENS, _WRONG = 512, 8


def gathered_words(result: LayerResult, found: Divergence) -> str | None:
    """One phrase if each wrong row of the expert belongs to another token."""
    expert, inputs = found.expert, result.under.inputs
    assert expert is not None
    wrong = found.bad.any(dim=-1) & found.rows_of(expert)
    tokens = wrong.nonzero()[:_WRONG, 0]
    got, allowed = found.found[wrong][:_WRONG], found.allowed[wrong][:_WRONG]
    if not got.isfinite().all():
        return None
    truth = _of_every_token(result, found.stage, expert)
    sources = []
    for row, near in zip(got, allowed, strict=True):
        same = ((truth - row).abs() <= SLACK * near.max()).all(dim=1).nonzero()
        if len(same) != 1:
            return None
        sources.append(int(same[0, 0]))
    first, source = inputs.tokens[int(tokens[0])], inputs.tokens[sources[0]]
    return f"the row is computed from the hidden state of {source}, not of {first}"


def _of_every_token(result: LayerResult, stage: str, expert: int) -> torch.Tensor:
    """The stage [t, width] of this expert for every token, as if all went to it."""
    under = result.under
    x = under.inputs.hidden_states[:_TOKENS]
    ids = torch.full((len(x), 1), expert, dtype=torch.int32)
    layer = under.layer_of(x, Routing(ids, torch.ones(len(x), 1)))
    return judge_own(layer, {}).truth[stage][:, 0]
