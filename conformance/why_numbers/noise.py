"""Why an output is wrong: roundings of a kind that its class does not have.

Sums that are kept in few bits cannot be reproduced, as their order is not known. Their
size can: a place where roundings of relative size 2**-n happen gives each element of
the output a variance that follows from the layer. The place and n under which the
errors are likeliest are named, if the errors then have the size of honest ones.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from collections.abc import Sequence

import torch

from mxmoe.conformance.why_numbers.expert_content import RIGHT
from mxmoe.conformance.why_numbers.honest_size import honest_variance
from mxmoe.conformance.why_numbers.layer_steps import Fit
from mxmoe.conformance.why_numbers.layer_steps import clamped
from mxmoe.conformance.why_numbers.otherwise.one_thing import Wrong
from mxmoe.reference.activation import split_halves
from mxmoe.reference.types import BLOCK
from mxmoe.reference.types import Activation

Tensor = torch.Tensor

# Half a unit in the last place, of numbers from 1 to 2: significands of 8 and 11 bits.
# Sums are not kept in fewer; others are made again (`otherwise.steps`).
_FORMATS = {
    "bfloat16": 2.0**-8,
    "float16 or TF32": 2.0**-11,
}
# Of a uniform error of that size relative to a number between two powers of two:
# 1 / sqrt(3), and values are 1.44 times the lower power in the mean square.
_UNIFORM = 1 / math.sqrt(3) / 1.44
# Roundings of a running sum in one K block, for steps of 64, 32, 16 or 8. Which of them
# is not known, nor is the order; a factor that is wrong by 2 would let two GEMMs, each
# with half of the roundings, look like one: so those between are asked as well.
_OFTEN = tuple(2 ** (n / 2) for n in range(-2, 6))
# The true variance may differ by how the sums are ordered and by what is not rounded.
_LEAST, _MOST = 0.3, 2.0
# Where the size is small, ..., and where it is large.
_PARTS = 4
# Fourth moment over the square of the second: 3 for a normal error, 1.8 for a uniform.
_FLAT, _PEAKED = 1.8, 4.5
# Of its standard deviation, which is taken from the worst part: a Gaussian error beyond
# it occurs once in 1e9 elements.
_FAR = 6.0
# Fewer elements do not tell places apart.
_FEWEST = 512


def explain_noise(wrong: Wrong) -> list[Fit]:
    """The places and formats whose roundings explain the errors best, if any do."""
    error, count = wrong.found - wrong.right, wrong.found.numel()
    if count < _FEWEST or not wrong.found.isfinite().all():
        return []
    dtype = wrong.experts.arithmetic.output
    honest = honest_variance(wrong.right, wrong.allowed, dtype)
    before = _unlikely(error, honest)
    fits = []
    for words, variance in _places(wrong):
        often = _OFTEN if words.startswith("sums") else (1,)
        parts = variance.flatten().argsort().chunk(_PARTS)
        for (name, unit), times in itertools.product(_FORMATS.items(), often):
            total = times * (unit * _UNIFORM) ** 2 * variance + honest
            if _normal(error / total.sqrt(), parts):
                left = math.exp(2 * (_unlikely(error, total) - before) / count)
                fits.append(Fit(f"{words} {name}: errors have that size", left))
    return fits


def _normal(error: Tensor, parts: Sequence[Tensor]) -> bool:
    """Whether errors over their size are normal, in each of `parts` of the elements.

    parts : places in the flat output, from where the size is small to where it is not.
    """
    square = error.square()
    means = [square.flatten()[part].mean() for part in parts]
    least, most = float(min(means)), float(max(means))
    curved = float(square.square().mean() / square.mean().square())
    told = least >= _LEAST and most <= _MOST and _FLAT <= curved <= _PEAKED
    return told and float(square.amax()) <= _FAR**2 * max(most, 1.0)


def _unlikely(error: Tensor, variance: Tensor) -> float:
    """Of normal errors, the negative logarithm of their likelihood."""
    return float((error.square() / variance + variance.log()).sum()) / 2


def _places(wrong: Wrong) -> Iterator[tuple[str, Tensor]]:
    """(words, the variance [t, h] that relative roundings of variance 1 give)."""
    experts, s = wrong.experts, wrong.experts.situation
    found = {name: torch.zeros_like(wrong.right) for name in _WORDS}
    ids = s.routing.ids - experts.first
    for local in experts.visited():
        mine = ids == local
        tokens = mine.nonzero()[:, 0]
        x, p = s.hidden_states[tokens].double(), experts.weights[mine][:, None]
        content = experts.content(local)
        w1, w2 = content.gate_up.dense, content.down.dense
        z = x @ w1.T + content.gate_up.bias
        a = RIGHT.steps.gated(z, torch.zeros_like(z[0]), s.config.activation)
        slopes = _slopes(z, s.config.activation)
        for name, variance in (
            ("z", z.square()),
            ("sum1", _sums(x, w1)),
            ("terms1", x.square() @ w1.square().T),
        ):
            lanes = split_halves(slopes.square() * variance)
            carried = (lanes[0] + lanes[1]) @ w2.square().T
            found[name].index_add_(0, tokens, p**2 * carried)
        for name, variance in (
            ("a", a.square() @ w2.square().T),
            ("sum2", _sums(a, w2)),
            ("y", (a @ w2.T + content.down.bias).square()),
        ):
            found[name].index_add_(0, tokens, p**2 * variance)
    # The last sum is rounded anyway. In which order the others are made is not known.
    orders = (wrong.slots, wrong.slots.flip(1))
    squares = [x.cumsum(dim=1)[:, :-1].square().sum(dim=1) for x in orders]
    found["slots"] = (squares[0] + squares[1]) / 2
    found["sums"] = found["sum1"] + found["sum2"]
    found["out"] = wrong.right.square()
    for name, variance in found.items():
        yield _WORDS[name], variance


_WORDS = {
    "z": "result of GEMM1 rounded to",
    "sum1": "sums of GEMM1 kept in",
    "terms1": "factors of GEMM1, or sums over parts of its K, rounded to",
    "a": "intermediate, factors of GEMM2, or sums over parts of its K, rounded to",
    "sum2": "sums of GEMM2 kept in",
    "sums": "sums of both GEMMs kept in",
    "y": "each slot's result rounded to",
    "slots": "slots added up in",
    "out": "output rounded to",
}


def _sums(x: Tensor, w: Tensor) -> Tensor:
    """Sum of squares of the running sums after each K block, [n, rows]."""
    blocks = w.unflatten(1, (-1, BLOCK))
    total, found = 0.0, 0.0
    for g, part in enumerate(x.unflatten(1, (-1, BLOCK)).unbind(1)):
        total = total + part @ blocks[:, g].T
        found = found + total**2
    return torch.as_tensor(found)


def _slopes(z: Tensor, activation: Activation) -> Tensor:
    """|d act / d z| of each lane's gate and up, [n, 2i] interleaved."""
    whole_gate, whole_up = split_halves(z)
    gate, up = clamped(whole_gate, whole_up, activation)
    sigmoid = torch.sigmoid(activation.alpha * gate)
    linear = up + activation.beta
    by_gate = sigmoid * (1 + activation.alpha * gate * (1 - sigmoid)) * linear
    by_gate = torch.where(whole_gate > activation.limit, 0, by_gate)
    by_up = torch.where(whole_up.abs() > activation.limit, 0, gate * sigmoid)
    return torch.stack((by_gate, by_up), dim=-1).flatten(-2)
