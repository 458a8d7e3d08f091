"""Which lanes and slots are wrong, and what stands in their place, in words."""

from __future__ import annotations

from collections.abc import Callable

import torch

from mxmoe.conformance.bounds.propagated import half_ulp
from mxmoe.conformance.why_numbers.layer_steps import gated
from mxmoe.conformance.why_numbers.stages.read_off import ReadOff
from mxmoe.reference.types import Activation

Tensor = torch.Tensor

_STEPS = (2, 4, 8, 16, 32)
_HALVES = (2, 4, 8, 16, 32, 64)
# A part is wrong if so much of it is.
_MOST = 0.6
# So many are listed; more are counted.
_LISTED = 4
# Standard deviations that a value may be from what it is said to be.
_ALIKE = 5.0
# A factor is told of activations that this many standard deviations are large.
_LARGE = 10.0


def lane_words(bad: Tensor) -> str:
    """``lanes 32 to 63`` for a mask [i]."""
    count, at = len(bad), bad.nonzero()[:, 0].tolist()
    if len(at) == count:
        return "every lane"
    first, last = at[0], at[-1]
    if len(at) == 1:
        return f"lane {first}"
    if len(at) == last - first + 1:
        end = f" (the last {len(at)})" if last == count - 1 else ""
        return f"lanes {first} to {last}{end}"
    for step in _STEPS:
        expected = range(first % step, count, step)
        if at == list(expected):
            return f"every {step}. lane, from {first}"
    for half in _HALVES:
        for n, name in enumerate(("first", "second")):
            if torch.equal(bad, torch.arange(count) // half % 2 == n):
                return f"the {name} {half} of each {2 * half} lanes"
    some = f"{len(at)} of {count} lanes"
    return some if len(at) > _MOST * count else f"{some} ({_list(at)})"


def slot_words(bad: Tensor, served: Tensor, ids: Tensor) -> str:
    """`` of experts 1, 3`` for a mask [n, k] of the slots that are served; or "".

    A slot of a wrong expert may be right by chance: where lanes are clamped, others
    are as good.
    """
    experts, slots_of_token = ids[bad].unique(), bad.any(dim=0)
    numbers = slots_of_token.nonzero()[:, 0].tolist()
    choices = (
        ("", served),
        (f" of {_many('expert', experts.tolist())}", served & torch.isin(ids, experts)),
        (f" of {_many('slot', numbers)} of each token", served & slots_of_token),
    )
    for most in (1.0, _MOST):
        for words, slots in choices:
            if int(bad.sum()) >= most * int(slots.sum()):
                return words
    return f" of {int(bad.sum())} of {int(served.sum())} slots"


def source_words(
    read: ReadOff, bad: Tensor, truth: Tensor, z: Tensor, activation: Activation
) -> str:
    """What the bad ones of `read` are: ``: all 0``, or "".

    truth : activations [n, k, i]. z : gate and up [n, k, 2i], interleaved.
    """
    if _is_so(read, torch.zeros_like(truth), bad):
        return ": all 0"
    factor = _factor(read, truth, bad)
    if factor and _is_so(read, factor * truth, bad):
        return f": {factor:.3g} times what they should be"
    gate, up = z[..., 0::2], z[..., 1::2]
    lanes: dict[str, Callable[[Tensor], Tensor]] = {
        "those of lane": lambda j: truth[..., j],
        "own gate, with the up of lane": lambda j: _gated(gate, up[..., j], activation),
        "own up, with the gate of lane": lambda j: _gated(gate[..., j], up, activation),
    }
    for words, told in lanes.items():
        if pairs := _lanes_held(read, bad, told):
            return f": {words} {_pairs(pairs, truth.shape[2])}"
    return ""


def _is_so(read: ReadOff, told: Tensor, where: Tensor) -> bool:
    return bool((_distance(read, told)[where] <= _ALIKE).all())


def _distance(read: ReadOff, told: Tensor) -> Tensor:
    """Standard deviations beyond the rounding of what is told."""
    error = (read.found - told).abs() - 2 * half_ulp(told, read.dtype)
    return error.clamp(min=0) / read.deviation


def _factor(read: ReadOff, truth: Tensor, bad: Tensor) -> float:
    """The mean of found / truth over those that are large; 0 if none is."""
    large = bad & (truth.abs() > _LARGE * read.deviation)
    weight = truth[large] / read.deviation[large].square()
    squares = float((weight * truth[large]).sum())
    return float((weight * read.found[large]).sum()) / squares if squares else 0.0


def _gated(gate: Tensor, up: Tensor, activation: Activation) -> Tensor:
    z = torch.stack((gate, up), dim=-1).flatten(-2)
    return gated(z, torch.zeros((), dtype=z.dtype), activation)


def _lanes_held(
    read: ReadOff, bad: Tensor, told: Callable[[Tensor], Tensor]
) -> list[tuple[int, int]]:
    """(lane, the one that it holds in its place); [] unless each holds just one."""
    lanes = bad.shape[2]
    lane, slots = torch.arange(lanes), bad.any(dim=2)
    far = torch.full((lanes, lanes), torch.inf, dtype=torch.float64)
    for by in range(1, lanes):
        other = (lane + by) % lanes
        far[lane, other] = _distance(read, told(other))[slots].amax(dim=0)
    pairs = []
    for i in bad.flatten(0, 1).any(dim=0).nonzero()[:, 0].tolist():
        fitting = (far[i] <= _ALIKE).nonzero()[:, 0].tolist()
        if len(fitting) != 1:
            return []
        pairs.append((i, fitting[0]))
    return pairs


def _pairs(pairs: list[tuple[int, int]], lanes: int) -> str:
    """``i - 1`` of pairs (i, the lane that it holds), or the first of them."""
    if len(pairs) > 1:
        for words, shifts in (
            ("", {j - i for i, j in pairs}),
            (f", modulo {lanes}", {(j - i) % lanes for i, j in pairs}),
        ):
            if len(shifts) == 1:
                by = shifts.pop()
                by = by - lanes if words and 2 * by > lanes else by
                return f"i {'+' if by > 0 else '-'} {abs(by)}{words}"
        bits = {i ^ j for i, j in pairs}
        if len(bits) == 1:
            return f"i xor {bits.pop()}"
    shown = ", ".join(f"{j} in {i}" for i, j in pairs[:_LISTED])
    return shown + (", ..." if len(pairs) > _LISTED else "")


def _many(word: str, numbers: list[int]) -> str:
    return f"{word}{'s' * (len(numbers) > 1)} {_list(numbers)}"


def _list(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:_LISTED]))
    return shown + (", ..." if len(numbers) > _LISTED else "")
