"""Rows of a dump in the reference's order: by (token, slot), slots by expert id."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mxmoe.evals.locate.dumps.folder import INPUT
from mxmoe.evals.locate.dumps.folder import ROWS
from mxmoe.evals.locate.dumps.folder import LayerDump
from mxmoe.reference.errors import BadInput

BY_SLOT = ("gate_up", "activation", "down")
"""Stages with a row for each (token, slot); the others have one a token."""


@dataclass(frozen=True, eq=False)
class Slots:
    """How a dump's slots lie: order [t, k], the slot that holds the reference's k-th
    expert; same [t], whether the token visits the same set of experts."""

    order: torch.Tensor
    same: torch.Tensor


def ids_of(dump: LayerDump) -> torch.Tensor | None:
    """int64 [t, k], or None where they were not dumped."""
    return dump.read("ids").long() if "ids" in dump.entries else None


def match_slots(reference: torch.Tensor, found: torch.Tensor) -> Slots:
    """Both [t, k]; tokens whose sets differ keep their order."""
    at = found[:, None, :] == reference[:, :, None]
    same = (found.sort(dim=1).values == reference.sort(dim=1).values).all(dim=1)
    order = at.int().argmax(dim=2)
    own = torch.arange(found.shape[1]).expand_as(order)
    return Slots(torch.where(same[:, None], order, own), same)


def stage_rows(
    dump: LayerDump, name: str, tokens: int, top_k: int | None
) -> torch.Tensor:
    """float64 [t, k, width] or [t, width]; rows in another order are put in place.

    Raises `BadInput` for a shape that does not fit, and for rows that are missing,
    doubled or outside.
    """
    tensor = dump.read(name).double()
    if name not in BY_SLOT:
        if tensor.dim() != 2 or len(tensor) != tokens:
            raise _unfit(dump, name, f"[{tokens}, width]", tensor)
        return tensor
    if top_k is None:
        raise BadInput(f"{dump.path}: {name}: expected ids beside it, found none")
    if tensor.dim() == 3:
        if tensor.shape[:2] != (tokens, top_k):
            raise _unfit(dump, name, f"[{tokens}, {top_k}, width]", tensor)
        return tensor
    if name + ROWS not in dump.entries:
        raise BadInput(
            f"{dump.path}: {name}: expected [{tokens}, {top_k}, width], or "
            f"{name}{ROWS} [rows, 2] beside it, found {list(tensor.shape)} alone"
        )
    return _placed(dump, name, tensor, tokens, top_k)


def _placed(
    dump: LayerDump, name: str, tensor: torch.Tensor, tokens: int, top_k: int
) -> torch.Tensor:
    rows = dump.read(name + ROWS).long()
    if rows.shape != (len(tensor), 2):
        raise _unfit(dump, name + ROWS, f"[{len(tensor)}, 2]", rows)
    inside = (rows >= 0).all(dim=1) & (rows[:, 0] < tokens) & (rows[:, 1] < top_k)
    # Rows of padding are marked by a token of -1.
    padding = rows[:, 0] == -1
    place = rows[:, 0] * top_k + rows[:, 1]
    kept = place[~padding]
    if not (inside | padding).all() or len(kept.unique()) != len(kept):
        raise BadInput(
            f"{dump.path}: {name}{ROWS}: expected each (token, slot) once, "
            "or (-1, -1) for padding, found others"
        )
    placed = torch.full((tokens * top_k, tensor.shape[1]), torch.nan).double()
    placed[kept] = tensor[~padding]
    return placed.unflatten(0, (tokens, top_k))


def in_reference_order(rows: torch.Tensor, slots: Slots) -> torch.Tensor:
    """[t, k, ...] with the slots of the reference."""
    order = slots.order
    while order.dim() < rows.dim():
        order = order[..., None]
    return rows.gather(1, order.expand(-1, -1, *rows.shape[2:]))


def shape_of(dump: LayerDump) -> tuple[int, int | None]:
    """(tokens, top_k) of a layer; top_k is None where nothing tells it."""
    if "ids" in dump.entries:
        tokens, top_k = dump.entries["ids"].shape
        return tokens, top_k
    for name in (INPUT, "combine", "router_logits", "all_reduce"):
        if name in dump.entries:
            return dump.entries[name].shape[0], None
    raise BadInput(
        f"{dump.path}: expected ids, {INPUT} or combine, which tell the number of "
        f"tokens, found {', '.join(dump.entries)}"
    )


def _unfit(dump: LayerDump, name: str, wanted: str, found: torch.Tensor) -> BadInput:
    return BadInput(
        f"{dump.path}: {name}: expected {wanted}, found {list(found.shape)}"
    )
