"""The bias vector that a candidate has added, against the known wrong orders of it."""

from __future__ import annotations

import torch

from mxmoe.conformance.explain_bytes import EDITS

# Fewer entries in another order are as likely to be other entries.
_PERMUTED = 4
_ORDERS = ("rows", "row shuffle", "halves", "gate and up")


def bias_words(
    name: str, whole: torch.Tensor, expert: int, added: torch.Tensor, near: torch.Tensor
) -> list[str]:
    """What `added` [M] is, for an expert whose bias is another; best first.

    name : ``gate_up_bias`` or ``down_bias``, whole [e, M] as in the checkpoint.
    near : [M], how exactly each entry of `added` is known.
    """

    def same(other: torch.Tensor) -> bool:
        return bool(((other.double() - added).abs() <= near).all())

    found = []
    for edit in EDITS:
        if edit.fits(name, whole) and same(edit.apply(whole)[expert]):
            if edit.name == "all zero":
                return [f"{name} is not added"]
            found.append(f"{name}: {edit.name}")
    if found:
        shuffled = [f for f in found if any(f": {word}" in f for word in _ORDERS)]
        if shuffled:
            return [f"{name} is not in the weights' row order ({_any(found, name)})"]
        return [_any(found, f"{name}: ")]
    moved = (added - whole[expert].double()).abs() > near
    if int(moved.sum()) < _PERMUTED:
        return []
    mine, order = added.sort()
    wanted = whole[expert].double().sort().values
    if bool(((mine - wanted).abs() <= near[order]).all()):
        return [
            f"{name} is not in the weights' row order (permuted: the same values in "
            "another order, of no known kind)"
        ]
    return []


def _any(found: list[str], prefix: str) -> str:
    names = [f.removeprefix(prefix).removeprefix(": ") for f in found]
    return names[0] if len(names) == 1 else "any of: " + "; ".join(names[:4])
