"""Why an output is wrong, as far as the output itself tells it.

Elements that are zero, one factor on everything, tokens or columns in another order,
something added: none of it needs a weight, so a layer of any size can be asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from mxmoe.conformance.bounds import half_ulp
from mxmoe.reference.types import Arithmetic

# Rows and columns whose place is looked for; more would take seconds.
_LOOKED_FOR = 32

# A factor nearer to 1 than this is a rounding, and not told from one here.
_SMALLEST_FACTOR = 2.0**-10


@dataclass(frozen=True, kw_only=True)
class Output:
    """What one rank gave, and what it should have given.

    found, truth, allowed, hidden_states : float64 [t, h] on the CPU.
    """

    found: torch.Tensor
    truth: torch.Tensor
    allowed: torch.Tensor
    hidden_states: torch.Tensor
    arithmetic: Arithmetic

    def bad(self) -> torch.Tensor:
        """bool [t, h]: out of bound."""
        return ~((self.found - self.truth).abs() <= self.allowed)

    def gives(self, truth: torch.Tensor, allowed: torch.Tensor) -> bool:
        """Whether `found` is `truth` within `allowed` and the output's own rounding."""
        slack = allowed + half_ulp(truth.abs() + allowed, self.arithmetic.output)
        return bool(((self.found - truth).abs() <= slack).all())


def explain_output(output: Output) -> list[str]:
    """Every sentence that is true of the whole of `output`; [] if none is."""
    if output.found.numel() == 0 or not output.found.isfinite().all():
        return []
    return [
        *_zeros(output),
        *_factor(output),
        *_tokens(output),
        *_columns(output),
        *_added(output),
    ]


def _zeros(output: Output) -> Iterator[str]:
    zero, bad = output.found == 0, output.bad()
    rows, columns = zero.all(dim=1), zero.all(dim=0)
    if not bad.any() or not (rows[:, None] | columns)[bad].all():
        return
    if zero.all():
        yield "output all zero"
        return
    if rows.any():
        yield f"output: {ranges('token', rows)} all zero"
    if columns.any():
        yield f"output: {ranges('column', columns)} all zero"


def _factor(output: Output) -> Iterator[str]:
    found, truth = output.found, output.truth
    weight = 1 / output.allowed.clamp(min=torch.finfo(torch.float64).tiny) ** 2
    size = float((weight * truth**2).sum())
    factor = float((weight * found * truth).sum()) / size if size else 0.0
    if factor and abs(factor - 1) > _SMALLEST_FACTOR:
        allowed = output.allowed * max(1.0, abs(factor))
        if output.gives(factor * truth, allowed):
            yield f"the whole output times {factor:.3g}"


def _tokens(output: Output) -> Iterator[str]:
    places = _places(output.found, output.truth, output.allowed, output.bad())
    if places:
        yield from _moved("token", places, len(output.found))


def _columns(output: Output) -> Iterator[str]:
    if len(output.found) < 2:  # one number has a like too easily
        return
    places = _places(output.found.T, output.truth.T, output.allowed.T, output.bad().T)
    if places:
        yield from _moved("column", places, output.found.shape[1])


def _places(
    found: torch.Tensor, truth: torch.Tensor, allowed: torch.Tensor, bad: torch.Tensor
) -> dict[int, int]:
    """Bad row -> the row whose truth it holds, or {} if one has none."""
    places = {}
    for row in bad.any(dim=1).nonzero()[:_LOOKED_FOR, 0].tolist():
        like = ((found[row] - truth).abs() <= allowed).all(dim=1).nonzero()[:, 0]
        if not len(like):
            return {}
        places[row] = int(like[0])
    return places


def _moved(what: str, places: dict[int, int], count: int) -> Iterator[str]:
    steps = {(place - at) % count for at, place in places.items()}
    if len(steps) == 1 and len(places) > 2:
        (step,) = steps
        by = step if step <= count // 2 else step - count
        yield f"each {what} holds the output of {what} n {'+' if by > 0 else '-'} " + (
            f"{abs(by)}"
        )
        return
    first = [f"{what} {at} holds that of {what} {n}" for at, n in places.items()][:3]
    more = f" and {len(places) - 3} more" if len(places) > 3 else ""
    yield f"{what}s in another order: {', '.join(first)}{more}"


def _added(output: Output) -> Iterator[str]:
    if output.gives(output.truth + output.hidden_states, output.allowed):
        yield "the hidden states are added to the output"


def ranges(what: str, mask: torch.Tensor) -> str:
    """``tokens 3..5, 9``: where a mask [n] is true."""
    found = mask.nonzero()[:, 0].tolist()
    runs: list[list[int]] = []
    for n in found:
        if runs and runs[-1][1] == n - 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    words = [f"{a}" if a == b else f"{a}..{b}" for a, b in runs[:4]]
    more = ", ..." if len(runs) > 4 else ""
    return f"{what}{'s' * (len(found) > 1)} {', '.join(words)}{more}"
