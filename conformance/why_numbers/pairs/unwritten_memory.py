"""Why an output is wrong where memory held 0xFF, and right where it held 0x00."""

from __future__ import annotations

import torch

from mxmoe.conformance.bounds.compare_numbers import compare_numbers
from mxmoe.conformance.why_numbers.moved import ranges
from mxmoe.conformance.why_numbers.pairs.two_outputs import Side

Tensor = torch.Tensor


def why_unwritten(side: Side, clean: Tensor) -> list[str]:
    """The line that begins ``why``.

    side : the wrong output. clean : [t, h], of the same call in memory of 0x00, made
    after it: a call that is wrong because of the one before it would be wrong again.
    """
    truth, allowed = side.judged.truth["combine"], side.judged.allowed["combine"]
    if not compare_numbers(clean, truth, allowed).within:
        return ["why    it is wrong in memory of zeros, too, when it is made again"]
    rows = compare_numbers(side.out, truth, allowed).bad.any(dim=1)
    line = "why    behaves as if: memory is read that forward has not written"
    return [f"{line}, for {_which(side, rows)}; over zeros the same call is right"]


def _which(side: Side, rows: Tensor) -> str:
    ids, owned = side.data.routing.ids, side.case.shard.expert_range(side.data.config)
    served = ((ids >= owned.start) & (ids < owned.stop)).any(dim=1)
    if torch.equal(rows, ~served):
        return "exactly the tokens that no expert of this rank serves"
    if rows.all():
        return "every token"
    if torch.equal(rows, (ids < 0).any(dim=1)):
        return "exactly the tokens with an empty slot (-1)"
    for expert in ids[ids >= 0].unique().tolist():
        if torch.equal(rows, (ids == expert).any(dim=1)):
            return f"exactly the tokens that visit expert {expert}"
    return ranges("token", rows)
