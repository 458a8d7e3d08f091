"""Other weights of the first GEMM that explain rows seen behind the second one."""

from __future__ import annotations

import torch

from mxmoe.evals.locate.divergence import Divergence
from mxmoe.evals.locate.explained import SLACK
from mxmoe.evals.locate.layer import LayerResult
from mxmoe.evals.locate.other_rows import other_matrices
from mxmoe.reference.activation import activate
from mxmoe.reference.formats import decode

_ROWS = 24
# Some 100 matrices are tried; each costs a decoded W1 of one expert.
_LARGEST = 2**21


def gate_up_words(result: LayerResult, found: Divergence) -> str | None:
    """One phrase, or None, and none for an expert of more than 2 MB of W1."""
    under, expert = result.under, found.expert
    assert expert is not None
    w = under.weights
    if w.gate_up_blocks[expert].numel() > _LARGEST:
        return None
    at = found.rows_of(expert)
    x = under.inputs.hidden_states[at.any(dim=1)][:_ROWS].double()
    got, allowed = found.found[at][:_ROWS], found.allowed[at][:_ROWS]
    near = SLACK * allowed.amax(dim=1, keepdim=True)
    w2 = decode(w.down_blocks[expert], w.down_scales[expert])
    b2 = torch.zeros(len(w2)) if w.down_bias is None else w.down_bias[expert]
    rows = list(range(w.gate_up_blocks.shape[1]))
    for name, w1, b1 in other_matrices(w.tensors(), "gate_up", expert, rows):
        a = activate(x @ w1.T + b1, under.config.activation)
        if bool(((a @ w2.T + b2.double() - got).abs() <= near).all()):
            return name
    return None
