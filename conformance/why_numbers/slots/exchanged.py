"""Why an output is wrong: experts that hold a part of another expert.

Which other one is read off single tokens: for every slot of a token each expert's part
is tried, and the choices under which the token is right are kept. The mapping that all
tokens agree on is then held against the whole output.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace

import torch

from mxmoe.conformance.bounds.propagated import half_ulp
from mxmoe.conformance.why_numbers.expert_content import RIGHT
from mxmoe.conformance.why_numbers.expert_content import Content
from mxmoe.conformance.why_numbers.expert_content import Experts
from mxmoe.conformance.why_numbers.expert_content import Matrix
from mxmoe.conformance.why_numbers.expert_content import Otherwise
from mxmoe.conformance.why_numbers.layer_steps import Fit
from mxmoe.conformance.why_numbers.otherwise.one_thing import Wrong
from mxmoe.conformance.why_numbers.otherwise.one_thing import explain_otherwise

Tensor = torch.Tensor
_TINY = torch.finfo(torch.float64).tiny

# Choices of experts for the slots of one token: 8**4; and tokens that are looked at.
_CHOICES = 4096
_TOKENS = 12
# Columns of that token that refute almost every choice; the rest are held against all.
_COLUMNS = 16


@dataclass(frozen=True)
class Part:
    """A part of an expert. take : (own, other) -> own with that part of the other."""

    name: str
    take: Callable[[Content, Content], Content]


def explain_exchanged(wrong: Wrong) -> list[Fit]:
    """Each part of an expert that, taken from other experts, makes the output right."""
    experts = wrong.experts
    k = wrong.slots.shape[1]
    if experts.count < 2 or experts.count**k > _CHOICES or not wrong.bad.any():
        return []
    if not wrong.found.isfinite().all():
        return []
    fits = []
    for part in PARTS:
        mapping = _mapping(wrong, part)
        if mapping:
            layer = Otherwise(
                name=_words(part, mapping, experts), edit=_taking(part, mapping)
            )
            fits += explain_otherwise(wrong, [layer])
    return fits


def _mapping(wrong: Wrong, part: Part) -> dict[int, int]:
    """Expert -> the expert whose part it has, for those that are wrong; or {}."""
    experts, mapping = wrong.experts, dict[int, int]()
    ids = experts.situation.routing.ids - experts.first
    bad = wrong.bad.any(dim=1)
    right = {e for e in experts.visited() if not bad[(ids == e).any(dim=1)].all()}
    for token in _covering(ids, bad, right, experts):
        served = [
            (s, e) for s, e in enumerate(ids[token].tolist()) if 0 <= e < experts.count
        ]
        choices: list[Sequence[int]] = [
            [e]
            if e in right
            else [mapping[e]]
            if e in mapping
            else range(experts.count)
            for _, e in served
        ]
        fitting = _fitting(wrong, token, _given(wrong, part, token, served, choices))
        if len(fitting) != 1:
            return {}
        for (_, e), others, n in zip(served, choices, fitting[0], strict=True):
            mapping[e] = others[n]
    return {e: f for e, f in mapping.items() if e != f}


def _covering(ids: Tensor, bad: Tensor, right: set[int], experts: Experts) -> list[int]:
    """Bad tokens that together visit every expert that may be wrong, few first."""

    def unknown(token: int) -> set[int]:
        return {e for e in ids[token].tolist() if 0 <= e < experts.count} - right

    left = [t for t in bad.nonzero()[:, 0].tolist() if unknown(t)]
    found: list[int] = []
    known: set[int] = set()
    while left and len(found) < _TOKENS:
        token = min(left, key=lambda t: (len(unknown(t) - known) or 99, t))
        if not unknown(token) - known:
            break
        known |= unknown(token)
        found.append(token)
        left.remove(token)
    return found


def _given(
    wrong: Wrong,
    part: Part,
    token: int,
    served: list[tuple[int, int]],
    choices: list[Sequence[int]],
) -> list[Tensor]:
    """What each slot adds with the part of each of its choices, [choices, h] a slot."""
    experts = wrong.experts
    x = experts.situation.hidden_states[token][None].double()
    weights = experts.weights[token]
    found = []
    for (slot, e), others in zip(served, choices, strict=True):
        p = weights[slot].reshape(1, 1)
        contents = [part.take(experts.content(e), experts.content(f)) for f in others]
        rows = [experts.rows(content, RIGHT.steps, x, p)[0] for content in contents]
        found.append(torch.stack(rows))
    return found


def _fitting(wrong: Wrong, token: int, given: list[Tensor]) -> list[list[int]]:
    """The choices, one a slot, whose sum is what was found."""
    some = slice(_COLUMNS)
    told = given[0][:, some]
    for rows in given[1:]:
        told = told[..., None, :] + rows[:, some]
    likely = _within(wrong, token, told, some).nonzero()
    parts = [rows[at] for rows, at in zip(given, likely.T, strict=True)]
    whole = torch.stack(parts).sum(dim=0)
    found: list[list[int]] = likely[_within(wrong, token, whole)].tolist()
    return found


def _within(
    wrong: Wrong, token: int, told: Tensor, columns: slice = slice(None)
) -> Tensor:
    """Which of the outputs `told` [..., columns] of a token are what was found."""
    rounding = half_ulp(told, wrong.experts.arithmetic.output)
    room = 2 * wrong.allowed[token, columns].clamp(min=_TINY) + rounding
    return ((wrong.found[token, columns] - told).abs() <= room).all(dim=-1)


def _taking(
    part: Part, mapping: Mapping[int, int]
) -> Callable[[Experts, int], Content]:
    def edit(experts: Experts, local: int) -> Content:
        own = experts.content(local)
        other = mapping.get(local)
        return own if other is None else part.take(own, experts.content(other))

    return edit


def _words(part: Part, mapping: Mapping[int, int], experts: Experts) -> str:
    named = {experts.first + e: experts.first + f for e, f in mapping.items()}
    steps = {(f - e) % experts.count for e, f in mapping.items()}
    if len(mapping) > 2 and len(mapping) >= len(experts.visited()) - 1:
        if len(steps) == 1:
            (by,) = steps
            by = by if by <= experts.count // 2 else by - experts.count
            return f"{part.name} of expert e {'+' if by > 0 else '-'} {abs(by)}"
        if len(set(named.values())) == 1:
            (one,) = set(named.values())
            return f"every expert has the {part.name} of expert {one}"
    pair = list(named)
    if len(pair) == 2 and named[pair[0]] == pair[1] and named[pair[1]] == pair[0]:
        return f"{part.name} of experts {min(pair)} and {max(pair)} swapped"
    shown = [f"expert {e} has the {part.name} of expert {f}" for e, f in named.items()]
    more = f" and {len(shown) - 4} more" if len(shown) > 4 else ""
    return ", ".join(shown[:4]) + more


def _fields(*names: str) -> Callable[[Matrix, Matrix], Matrix]:
    return lambda own, other: replace(own, **{n: getattr(other, n) for n in names})


def _parts() -> list[Part]:
    found = [Part("contents", lambda own, other: other)]
    for matrix in ("gate_up", "down"):
        for words, names in (
            ("weights and bias", ("elements", "scales", "codes", "bias")),
            ("weights, not the bias,", ("elements", "scales", "codes")),
            ("blocks", ("elements", "codes")),
            ("scales", ("scales",)),
            ("bias", ("bias",)),
        ):
            change = _fields(*names)

            def take(
                own: Content,
                other: Content,
                matrix: str = matrix,
                change: Callable[[Matrix, Matrix], Matrix] = change,
            ) -> Content:
                both = getattr(own, matrix), getattr(other, matrix)
                return replace(own, **{matrix: change(*both)})

            found.append(Part(f"{matrix} {words}", take))
    return found


PARTS = _parts()
