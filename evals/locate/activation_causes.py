"""Which other activation gives what was found, from the same gate_up.

Named variants first; then alpha, beta and the limit are each fitted to the rows, by
Gauss-Newton, so that a parameter that is slightly off is read from the numbers. The
rows may be those of the activation itself, or of ``down``, behind the second GEMM.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import replace

import torch

from mxmoe.evals.locate.explained import explained
from mxmoe.reference.activation import activate
from mxmoe.reference.activation import split_halves
from mxmoe.reference.types import SILU
from mxmoe.reference.types import Activation

Through = Callable[[torch.Tensor], torch.Tensor]
"""From the activation [n, i] to the rows that were seen."""

_STEPS = 25
_INFINITE = float("inf")


def activation_causes(
    gate_up: torch.Tensor,
    found: torch.Tensor,
    allowed: torch.Tensor,
    right: Activation,
    *,
    through: Through,
) -> list[str]:
    """Phrases for what explains every row, or ().

    gate_up : [n, 2i], what went in. found, allowed : [n, width].
    """

    before = found - through(activate(gate_up, right))

    def fits(rows: torch.Tensor) -> bool:
        return explained(before, found - through(rows), allowed)

    named = [name for name, a in _variants(gate_up, right) if fits(a)]
    if named:
        return [f"behaves as if: {name}" for name in named]
    fitted = []
    for parameter in ("alpha", "beta", "limit"):
        value = _fitted(gate_up, found, right, parameter, through)
        if value is not None:
            edited = _with(right, parameter, value)
            if fits(activate(gate_up, edited)):
                wanted = getattr(right, parameter)
                fitted.append(f"{parameter} is {value:.3g}, not {wanted:g}")
    return fitted


def _variants(z: torch.Tensor, right: Activation) -> Iterator[tuple[str, torch.Tensor]]:
    """Activations [n, i] of kinds that kernels are known to have mixed up."""
    gate, up = split_halves(z)
    top = right.limit

    def of(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        return gate * torch.sigmoid(right.alpha * gate) * (up + right.beta)

    low_gate, both = gate.clamp(max=top), up.clamp(-top, top)
    yield "no clamp", of(gate, up)
    yield "the gate half is not clamped", of(gate, both)
    yield "the up half is not clamped", of(low_gate, up)
    yield "the up half is clamped from above only", of(low_gate, up.clamp(max=top))
    yield "the up half is clamped from below only", of(low_gate, up.clamp(min=-top))
    yield "the gate half is clamped on both sides", of(gate.clamp(-top, top), both)
    yield "no +1 on the up half", activate(z, replace(right, beta=0.0))
    yield "alpha taken as 1", activate(z, replace(right, alpha=1.0))
    yield "plain silu(gate) * up", activate(z, SILU)


def _fitted(
    z: torch.Tensor,
    found: torch.Tensor,
    right: Activation,
    parameter: str,
    through: Through,
) -> float | None:
    """The value that leaves least of `found`, from the right one on."""

    def rows(value: float) -> torch.Tensor:
        return through(activate(z, _with(right, parameter, value)))

    value = float(getattr(right, parameter))
    if value == _INFINITE:
        return None
    step = 2.0**-16
    for _ in range(_STEPS):
        now = rows(value)
        slope = (rows(value + step) - rows(value - step)) / (2 * step)
        size = float(slope.square().sum())
        if not size:
            return None
        moved = float(((found - now) * slope).sum()) / size
        value += max(-0.5, min(0.5, moved))
        if abs(moved) < 1e-9:
            break
    return value


def _with(right: Activation, parameter: str, value: float) -> Activation:
    alpha, beta, limit = (
        value if parameter == name else getattr(right, name)
        for name in ("alpha", "beta", "limit")
    )
    return replace(right, alpha=alpha, beta=beta, limit=limit)
