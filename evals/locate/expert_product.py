"""The GEMM in which a divergence was seen, for its first expert."""

from __future__ import annotations

import torch

from mxmoe.conformance.bounds.own import judge_own
from mxmoe.evals.locate.bias_order import bias_words
from mxmoe.evals.locate.divergence import Divergence
from mxmoe.evals.locate.divergence import faint
from mxmoe.evals.locate.layer import LayerResult
from mxmoe.evals.locate.other_rows import other_rows
from mxmoe.evals.locate.product_causes import Product
from mxmoe.evals.locate.product_causes import added_biases
from mxmoe.evals.locate.product_causes import column_cause
from mxmoe.evals.locate.product_causes import same_cause
from mxmoe.reference.formats import decode

_FEW = 4


def expert_product(result: LayerResult, found: Divergence, *, own: bool) -> Product:
    """Its inputs are the candidate's own activation if `own`, else the truth's."""
    under, expert = result.under, found.expert
    assert expert is not None
    at, w = found.rows_of(expert), under.weights
    if found.stage == "gate_up":
        x = under.inputs.hidden_states[at.any(dim=1)].double()
        matrix = decode(w.gate_up_blocks[expert], w.gate_up_scales[expert])
        bias = w.gate_up_bias
    else:
        trace = result.numbers.trace if own else {}
        shown = trace.get("activation")
        if shown is None:
            shown = judge_own(under.layer(), trace).truth["activation"]
        x, bias = shown[at], w.down_bias
        matrix = decode(w.down_blocks[expert], w.down_scales[expert])
    return Product(
        inputs=x,
        weights=matrix,
        bias=torch.zeros(len(matrix)).double()
        if bias is None
        else bias[expert].double(),
        residual=found.found[at] - found.truth[at],
        allowed=found.allowed[at],
        bad=found.bad[at],
    )


def product_words(
    result: LayerResult, found: Divergence, product: Product
) -> str | None:
    """What explains the expert's rows: a bias, a byte, or other rows of weights."""
    expert, tensors = found.expert, result.under.weights.tensors()
    assert expert is not None
    name = f"{found.stage}_bias"
    added = added_biases(product)
    if added is not None and name in tensors:
        near = 2 * product.allowed.amax(dim=0)
        words = bias_words(name, tensors[name], expert, added, near)
        if words is not None:
            return words
    words = _column_words(product, found.column)
    if words is not None or faint(found):
        return words
    rows = found.found[found.rows_of(expert)]
    return other_rows(product, rows, tensors, found.stage, expert)


def _column_words(product: Product, column: int) -> str | None:
    first = column_cause(product, column)
    if first is None:
        return None
    same, looked_at = same_cause(product, first)
    if looked_at > _FEW and 2 * same < looked_at:
        # Of many wrong columns one may fit anything.
        return None
    text, total = first.words(float(product.bias[column])), len(product.columns)
    if same > 1 and same == looked_at:
        return f"{text}; so it is in all {total} wrong columns"
    if same > 1:
        return f"{text}; the same in {same} of the first {looked_at} columns"
    return text
