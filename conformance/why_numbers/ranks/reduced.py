"""Why a candidate's own all_reduce is wrong: what it made of the ranks' outputs.

Beside mixtures of the outputs (`sum`), which may hold in some tokens or columns
only, where a kernel ends early: outputs that are stored in fewer bits on their way, or
whose tokens are not those of the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch

from mxmoe.conformance.bounds.compare_numbers import compare_numbers
from mxmoe.conformance.why_numbers.layer_steps import through
from mxmoe.conformance.why_numbers.moved import ranges
from mxmoe.conformance.why_numbers.output import FORMATS
from mxmoe.conformance.why_numbers.output import Output
from mxmoe.conformance.why_numbers.output import explain_output
from mxmoe.conformance.why_numbers.ranks.sum import Terms
from mxmoe.conformance.why_numbers.ranks.sum import explain_sum
from mxmoe.conformance.why_numbers.ranks.sum import mixtures
from mxmoe.reference.types import Arithmetic

Tensor = torch.Tensor


def explain_reduced(found: Tensor, terms: Terms, arithmetic: Arithmetic) -> list[str]:
    """The sentences under which `found` [t, h] is the sum of the ranks' outputs.

    terms : the outputs as partials, what each addition may be off by as allowed.
    """
    found = found.double()
    if named := explain_sum(found, terms):
        return named
    truth, allowed = terms.partials.sum(dim=0), terms.allowed.sum(dim=0)
    told = [
        *_in_places(found, truth, allowed, terms),
        *_on_the_way(truth, allowed, terms),
    ]
    names = [
        name
        for name, sums, room in told
        if compare_numbers(found, sums, allowed + room).within
    ]
    output = Output(
        found=found,
        truth=truth,
        allowed=allowed,
        hidden_states=terms.residual,
        arithmetic=arithmetic,
    )
    return names or [str(fit) for fit in explain_output(output)]


def without_place(name: str) -> str:
    """A sentence, without the tokens or columns that it is true of."""
    return re.sub(r", (in|for) (token|column)s? .*", "", name)


_Told = tuple[str, Tensor, Tensor]
"""A sentence, the sum [t, h] that it tells of, what that may be off by beside."""


def _in_places(
    found: Tensor, truth: Tensor, allowed: Tensor, terms: Terms
) -> Iterator[_Told]:
    """A mixture in the tokens, or the columns, that are wrong; else the sum."""
    bad = compare_numbers(found, truth, allowed).bad
    rows, columns = bad.any(dim=1), bad.any(dim=0)
    places = list[tuple[str, Tensor]]()
    if not rows.all():
        places.append((f", for {ranges('token', rows)} only", rows[:, None]))
    if not columns.all():
        places.append((f", in {ranges('column', columns)} only", columns))
    for where, mask in places:
        for mixture in mixtures(terms):
            mixed, room = mixture.told(terms)
            yield mixture.name + where, torch.where(mask, mixed, truth), room * mask


def _on_the_way(truth: Tensor, allowed: Tensor, terms: Terms) -> Iterator[_Told]:
    """Outputs that are not as they were when they are added."""
    none = torch.zeros_like(truth)
    for name, dtype in FORMATS.items():
        rounded = through(terms.partials, dtype=dtype)
        words = f"each rank's output rounded to {name} before the sum"
        yield words, rounded.sum(dim=0), none
        words = f"the sum over ranks rounded to {name}"
        yield words, through(truth, dtype=dtype), none
    for r, label in enumerate(terms.labels):
        part = terms.partials[r]
        for by, words in ((1, "n - 1"), (-1, "n + 1")):
            moved = truth - part + part.roll(by, 0)
            name = f"token n takes the output of rank {label} for token {words}"
            yield name, moved, allowed.roll(by, 0)
