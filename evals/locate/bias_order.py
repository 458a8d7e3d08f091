"""The bias vector that a candidate has added, against the known wrong orders of it."""

from __future__ import annotations

import torch

from mxmoe.conformance.why_bytes.finished_tensor import EDITS

# Fewer entries in another order are as likely to be other entries.
_PERMUTED = 4
_ORDERS = ("rows", "row shuffle", "halves", "gate and up")


def bias_words(
    name: str, whole: torch.Tensor, expert: int, added: torch.Tensor, near: torch.Tensor
) -> str | None:
    """What `added` [M] is, for an expert whose bias is another; None if not known.

    name : ``gate_up_bias`` or ``down_bias``, whole [e, M] as in the checkpoint.
    near : [M], how exactly each entry of `added` is known.
    """

    def same(other: torch.Tensor) -> bool:
        return bool(((other.double() - added).abs() <= near).all())

    if same(whole[expert]):
        return None
    if same(torch.zeros_like(added)):
        return f"{name} is not added"
    theirs = [e for e in range(len(whole)) if e != expert and same(whole[e])]
    if theirs:
        return f"{name} is that of expert {theirs[0]}"
    mine = whole[expert : expert + 1]
    edits = [edit for edit in EDITS if edit.fits(name, mine)]
    found = [edit.name for edit in edits if same(edit.apply(mine)[0])]
    if found:
        known = "any of: " + "; ".join(found[:4]) if len(found) > 1 else found[0]
        if any(word in known for word in _ORDERS):
            return f"{name} is not in the weights' row order ({known})"
        return f"{name}: {known}"
    moved = (added - whole[expert].double()).abs() > near
    if int(moved.sum()) < _PERMUTED:
        return None
    mine, order = added.sort()
    wanted = whole[expert].double().sort().values
    if bool(((mine - wanted).abs() <= near[order]).all()):
        return (
            f"{name} is not in the weights' row order (permuted: the same values in "
            "another order, of no known kind)"
        )
    return None
