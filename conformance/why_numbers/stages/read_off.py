"""The activations that an output was made of, read off it.

The second GEMM has more rows than a token has lanes of its slots, so an output tells
them. They are those whose

    out[t, h] = sum over k, i of w[t, k] W2[e, h, i] activation[t, k, i] + biases

is nearest to what was found, in units of an honest error. If no more than that is left,
the second GEMM and all behind it are right. If more is left, no activations give this
output.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mxmoe.conformance.bounds.propagated import Judged
from mxmoe.conformance.why_numbers.expert_content import Experts
from mxmoe.conformance.why_numbers.honest_size import has_honest_size
from mxmoe.conformance.why_numbers.honest_size import honest_variance

Tensor = torch.Tensor


@dataclass(frozen=True, kw_only=True)
class ReadOff:
    """Activations [n, k, i] of n tokens, with their standard deviations.

    tokens : [n], which they are. dtype : what activations are stored in. left : the
    error [n, h] that no activations explain, in standard deviations.
    """

    tokens: Tensor
    found: Tensor
    deviation: Tensor
    dtype: torch.dtype
    left: Tensor

    @property
    def explain_all(self) -> bool:
        """Whether some activations give the output, but for honest errors."""
        return has_honest_size(self.left, torch.ones_like(self.left))


def read_activations(
    out: Tensor, tokens: Tensor, judged: Judged, experts: Experts
) -> ReadOff:
    """The activations of some tokens of an output float64 [t, h]."""
    truth, allowed = judged.truth["combine"], judged.allowed["combine"]
    lanes = judged.truth["activation"]
    found, deviation = torch.zeros_like(lanes), torch.full_like(lanes, torch.inf)
    left = torch.zeros_like(truth)
    dtype = experts.arithmetic.output
    for t in tokens.tolist():
        size = torch.maximum(out[t].abs(), truth[t].abs())
        unit = honest_variance(size, allowed[t], dtype).sqrt()
        weights, ids = experts.weights[t], experts.situation.routing.ids[t]
        slots = weights.nonzero()[:, 0].tolist()
        # A token that the rank does not serve has no unknowns, and may be wrong.
        columns = [truth.new_zeros(truth.shape[1], 0)]
        columns += [
            weights[k] * experts.content(int(ids[k]) - experts.first).down.dense
            for k in slots
        ]
        matrix = torch.cat(columns, dim=1) / unit[:, None]
        error = (out[t] - truth[t]) / unit
        inverse = torch.linalg.inv(matrix.T @ matrix)
        step = inverse @ (matrix.T @ error)
        shape = len(slots), lanes.shape[2]
        found[t, slots] = lanes[t, slots] + step.reshape(shape)
        deviation[t, slots] = inverse.diagonal().sqrt().reshape(shape)
        # As many as are left have the mean square that all had before.
        rows, unknown = matrix.shape
        left[t] = (error - matrix @ step) * (rows / (rows - unknown)) ** 0.5
    return ReadOff(
        tokens=tokens,
        found=found[tokens],
        deviation=deviation[tokens],
        dtype=experts.arithmetic.intermediate,
        left=left[tokens],
    )
