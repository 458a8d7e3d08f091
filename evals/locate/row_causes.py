"""Rows that hold something else that is right: another row, expert, or a multiple."""

from __future__ import annotations

import torch

from mxmoe.evals.locate.divergence import Divergence

# Wrong rows that are looked at, and others that they are compared with.
_WRONG, _OTHERS = 16, 4096


def row_cause(found: Divergence) -> str | None:
    """One phrase, or None. All wrong rows (up to 16) must fit it."""
    rows = found.bad.any(dim=-1)
    got, truth = found.found[rows][:_WRONG], found.truth[rows][:_WRONG]
    allowed = found.allowed[rows][:_WRONG]
    if not got.isfinite().all():
        return None
    if found.slot is None and not got.any():
        return "the wrong rows hold zeros only"
    return (
        _constant(got, truth, allowed)
        or _exchanged(found, got, truth, allowed)
        or _columns(got, truth, allowed)
        or (rows_times(found) if found.slot is None else None)
    )


def _constant(
    got: torch.Tensor, truth: torch.Tensor, allowed: torch.Tensor
) -> str | None:
    """One value in every wrong column: not written, or written with a constant."""
    wrong = ((got - truth).abs() > allowed).any(dim=0)
    columns = wrong.nonzero()[:, 0].tolist()
    if len(columns) < 2:
        return None
    value = float(got[0, columns[0]])
    if got[:, columns[0] : columns[-1] + 1].ne(value).any():
        return None
    if wrong.double().mean() > 0.5:
        return f"the wrong rows hold {value:.6g} in every column"
    return f"columns {columns[0]} to {columns[-1]} hold {value:.6g} in every wrong row"


def _exchanged(
    found: Divergence, got: torch.Tensor, truth: torch.Tensor, allowed: torch.Tensor
) -> str | None:
    if bool(((got - truth).abs() <= allowed).all(dim=1).any()):
        return None
    width = found.truth.shape[-1]
    others = found.truth.reshape(-1, width)[:_OTHERS]
    near = found.allowed.reshape(-1, width)[:_OTHERS]
    for row in got:
        if not bool(((row - others).abs() <= near).all(dim=1).any()):
            return None
    at = int(((got[0] - others).abs() <= near).all(dim=1).int().argmax())
    where = f"token {at}"
    if found.slot is not None:
        k = found.truth.shape[1]
        where = f"token {at // k} slot {at % k}"
    return f"rows exchanged: the first wrong row holds what belongs to {where}"


def rows_times(found: Divergence) -> str | None:
    """If every wrong row is one multiple of what it should be."""
    rows = found.bad.any(dim=-1)
    got, truth, allowed = found.found[rows], found.truth[rows], found.allowed[rows]
    factor = _factor(got, truth, allowed)
    return (
        None
        if factor is None
        else (f"every wrong row is {factor:.6g} times what it should be")
    )


def rows_add_nothing(found: Divergence) -> str | None:
    """If every wrong row [t, k] is zero: which slots or which expert they are."""
    rows = found.bad.any(dim=-1)
    if found.slot is None or bool(found.found[rows].any()):
        return None
    return _nothing(found, rows)


def _nothing(found: Divergence, rows: torch.Tensor) -> str:
    if len(found.experts) == 1 and found.expert is not None:
        mine = found.rows_of(found.expert)
        if torch.equal(rows, mine):
            return f"expert {found.expert} adds nothing"
        return f"{int(rows.sum())} of {int(mine.sum())} rows of the expert add nothing"
    slots = rows.any(dim=0).nonzero()[:, 0].tolist()
    if len(slots) < rows.shape[1]:
        of = ", ".join(map(str, slots))
        return (
            f"slot {of} adds nothing" if len(slots) == 1 else f"slots {of} add nothing"
        )
    return "the wrong rows add nothing"


def _factor(
    got: torch.Tensor, truth: torch.Tensor, allowed: torch.Tensor
) -> float | None:
    size = float((truth * truth).sum())
    if not size or bool(((got - truth).abs() <= 2 * allowed).all()):
        return None
    factor = float((got * truth).sum()) / size
    fits = bool(((got - factor * truth).abs() <= 2 * allowed).all())
    return factor if fits and abs(factor) > 2.0**-10 else None


def _columns(
    got: torch.Tensor, truth: torch.Tensor, allowed: torch.Tensor
) -> str | None:
    """Whether the wrong columns hold each other's values, in every row."""
    wrong = ((got - truth).abs() > allowed).any(dim=0).nonzero()[:, 0].tolist()
    if len(got) < 2 or not wrong:
        return None
    holds = {}
    for column in wrong[:_WRONG]:
        near = (got[:, column, None] - truth).abs() <= 2 * allowed
        same = near.all(dim=0).nonzero()[:, 0].tolist()
        if len(same) != 1 or same[0] == column:
            return None
        holds[column] = same[0]
    first = next(iter(holds))
    return (
        f"columns permuted: column {first} holds what belongs to column {holds[first]}"
    )
