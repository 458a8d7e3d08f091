"""Why errors within the bound are systematic: what, done otherwise, leaves none.

Two kinds of hypotheses. One factor on a part of the layer: the gain along it, with its
standard deviation. A number stored in another format: that is made again, and must be
in the errors once (`_is_there_once`). Both are named only if nothing is systematic once
they are taken out: no gain, and no group of wide errors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from mxmoe.conformance.residual.gains import GainFits
from mxmoe.conformance.residual.gains import fits_along
from mxmoe.conformance.residual.spread import wide_spreads
from mxmoe.conformance.residual.structure import Expected
from mxmoe.conformance.residual.structure import Situation
from mxmoe.conformance.why_numbers import layer_steps
from mxmoe.conformance.why_numbers.expert_content import RIGHT
from mxmoe.conformance.why_numbers.expert_content import Experts
from mxmoe.conformance.why_numbers.expert_content import Otherwise
from mxmoe.conformance.why_numbers.hypotheses import too_large
from mxmoe.conformance.why_numbers.layer_steps import through
from mxmoe.conformance.why_numbers.otherwise.contents import contents_otherwise
from mxmoe.conformance.why_numbers.otherwise.steps import steps_otherwise
from mxmoe.conformance.why_numbers.otherwise.stores import away_from_0
from mxmoe.conformance.why_numbers.otherwise.stores import cut_to_bfloat16
from mxmoe.conformance.why_numbers.otherwise.weights import weights_otherwise
from mxmoe.conformance.why_numbers.slots.slot_sums import slot_sums

Tensor = torch.Tensor

# What a gain along each direction is, if it is the whole of it.
_PARTS = {
    "the output": "the output, or every routing weight, times {}",
    "the input": "the hidden states, or W1 and not its bias, times {}",
    "the gate_up bias": "gate_up bias times {}",
    "the down bias": "down bias times {}",
    "alpha": "alpha times {}",
    "beta": "beta times {}",
    "the limit": "the limit of the clamps times {}",
    "the exp's argument, squared": "an exp that is off by (alpha gate)^2 times {}",
}
_OF_EXPERT = "expert {}'s routing weights, or its down and its bias, times {{}}"
_OF_SLOT = "slot {}'s contribution"

# A gain of 1 that is known worse than that tells no number from half of it.
_KNOWN_TO = 0.25
# Roundings that are made again, of sums in another order, go another way near ties: so
# much less of them than 1 was found where they were made.
_OTHER_TIES = 0.35
# A log-likelihood that is this much less (odds of e**12, as in `honest_size`).
_LESS_LIKELY = 12.0
# Cheaply, with every error independent: a gain further from 1 is no gain of 1.
_FAR_FROM_1 = 0.5
_SHOWN = 4


@dataclass(frozen=True, eq=False)
class Systematic:
    """A residual [t, h] that has a gain, or a group of wide errors; see `Situation`."""

    situation: Situation
    expected: Expected
    fits: GainFits
    residual: Tensor

    def without(self, change: Tensor) -> float | None:
        """-2 log-likelihood of what `change` leaves; None if that is systematic."""
        rest = self.residual - change
        if any(gain.significant for gain in self.fits.of(rest)):
            return None
        if wide_spreads(rest, self.situation, self.expected):
            return None
        return float((self.weights() * rest.square()).sum())

    def weights(self) -> Tensor:
        """[t, h]: one over the mean square of honest errors; 0 where none is."""
        e = self.expected
        return torch.where(e.variance > 0, 1 / (e.variance + e.eta**2), 0)


@dataclass(frozen=True)
class _Cause:
    words: str
    left: float


def why_systematic(found: Systematic) -> str:
    """The line that begins ``why``."""
    causes = list(_factors(found))
    if not too_large(found.situation.part):
        causes += _otherwise(found)
    if not causes:
        return "why    nothing known, taken out, leaves errors of honest roundings"
    least = min(cause.left for cause in causes)
    likely = [c.words for c in causes if c.left - least <= 2 * _LESS_LIKELY]
    likely = list(dict.fromkeys(likely))
    return f"why    behaves as if: {'; or '.join(likely[:_SHOWN])}"


def _factors(found: Systematic) -> Iterator[_Cause]:
    """One factor on a part of the layer."""
    names, slots = _slots(found.situation)
    of_slots = fits_along(found.situation, found.expected, names, slots)
    for fits in (found.fits, of_slots):
        for gain in fits.of(found.residual):
            if not gain.significant:
                continue
            change = gain.value * fits.directions[fits.names.index(gain.along)]
            left = found.without(change)
            if left is not None and gain.rounding:
                # In part, it is another rounding that is like it.
                if abs(gain.value - 1) <= gain.allowed:
                    yield _Cause(gain.along, left)
            elif left is not None:
                words = _words(gain.along)
                factor = gain.value if "off" in words else 1 + gain.value
                number = f"{factor:.5g} (to within {gain.allowed:.2g})"
                yield _Cause(words.format(number), left)


def _words(along: str) -> str:
    expert = along.removeprefix("expert ").removesuffix("'s contribution")
    if expert.isdecimal():
        return _OF_EXPERT.format(expert)
    return _PARTS.get(along, f"{along} times {{}}")


def _slots(s: Situation) -> tuple[list[str], Tensor]:
    """What each of several slots adds: names, and [k, t, h]."""
    ids, owned = s.routing.ids, s.shard.expert_range(s.config)
    served = (ids >= owned.start) & (ids < owned.stop)
    p = torch.where(served, s.routing.weights.double(), 0)
    added = (p[..., None] * s.truth["down"]).transpose(0, 1)
    count = len(added) if len(added) > 1 else 0
    return [_OF_SLOT.format(slot) for slot in range(count)], added[:count]


def _otherwise(found: Systematic) -> Iterator[_Cause]:
    """A number that is stored in another format, which is made again."""
    weights = found.weights()
    for words, change in _changes(found.situation):
        size = float((weights * change**2).sum())
        gain = float((weights * change * found.residual).sum()) / size if size else 0.0
        if abs(gain - 1) > _FAR_FROM_1 or not _is_there_once(found, change):
            continue
        left = found.without(change)
        if left is not None:
            yield _Cause(words, left)


def _is_there_once(found: Systematic, change: Tensor) -> bool:
    """Whether the gain along `change` is significant, and 1 as far as it is known."""
    fits = fits_along(found.situation, found.expected, ["it"], change[None])
    return any(
        gain.significant
        and gain.allowed <= _KNOWN_TO
        and abs(gain.value - 1) <= max(gain.allowed, _OTHER_TIES)
        for gain in fits.of(found.residual)
    )


def _changes(s: Situation) -> Iterator[tuple[str, Tensor]]:
    """What each hypothesis adds to the output [t, h]."""
    given = layer_steps.Situation(
        part=s.part,
        config=s.config,
        hidden_states=s.hidden_states,
        routing=s.routing,
        shard=s.shard,
    )
    experts = Experts(given, s.arithmetic)
    right = experts.slots(RIGHT).sum(dim=1)
    for hypothesis in _hypotheses(s):
        change = experts.slots(hypothesis).sum(dim=1) - right
        # Larger ones are out of bound somewhere; most are.
        if bool(change.any()) and bool((change.abs() <= 2 * s.allowed).all()):
            yield hypothesis.name, change
    slots, output = experts.slots(RIGHT), s.arithmetic.output
    for name, told in slot_sums(slots, s.routing.ids, output):
        if not torch.equal(told, right):
            yield name, told - right
    if s.arithmetic.output is torch.bfloat16:
        rounded = through(right, dtype=torch.bfloat16)
        yield "output cut, not rounded to bfloat16", cut_to_bfloat16(right) - rounded
        yield "output rounded away from 0 to bfloat16", away_from_0(right) - rounded


def _hypotheses(s: Situation) -> Iterator[Otherwise]:
    """Those about formats: others are far out of bound."""
    float16 = Otherwise(
        name="routing weights rounded to float16",
        weigh=lambda w: through(w, dtype=torch.float16),
    )
    yield float16
    blocks = {n: getattr(s.part, f"{n}_blocks").shape[2] for n in ("gate_up", "down")}
    for otherwise in (
        *weights_otherwise(s.routing.ids, s.routing.weights),
        *steps_otherwise(),
        *contents_otherwise(blocks),
    ):
        if any(word in otherwise.name for word in _OF_FORMATS):
            yield otherwise


_OF_FORMATS = ("rounded", "cut to", "quantised")
