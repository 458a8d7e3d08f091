"""Why bytes differ: the one or two edits of the expected tensor that explain it.

Every edit is a fault that has been seen in the field (bytes in another order, values
changed). `explain_chain` looks for a fault in the layout's own steps first. Edits that
give equal bytes are all named; when nothing fits, that is said.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from mxmoe.conformance.judging.compare_bytes import as_bytes

NO_EDIT = "no edit of one or two known steps gives these bytes"

# Two edits are tried on tensors up to this size only, to stay within a second.
_PAIRS_UP_TO_BYTES = 2**18


@dataclass(frozen=True)
class Edit:
    """`apply` turns an expected tensor [e, rows, ...] into what the fault gives."""

    name: str
    apply: Callable[[torch.Tensor], torch.Tensor]
    rows_multiple_of: int = 1
    kinds: tuple[str, ...] = ("blocks", "scales", "bias")
    matrices: tuple[str, ...] = ("gate_up", "down")

    def fits(self, name: str, tensor: torch.Tensor) -> bool:
        """Whether the edit makes sense for the tensor called `name`."""
        matrix, _, kind = name.rpartition("_")
        return (
            kind in self.kinds
            and matrix in self.matrices
            and tensor.shape[1] % self.rows_multiple_of == 0
        )


def _shuffle(block: int, lanes: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """The epilogue-tile order: within `block` rows, out[8q + s] <- in[lanes*s + q]."""
    n = torch.arange(block)
    order = lanes * (n % 8) + n // 8

    def apply(x: torch.Tensor) -> torch.Tensor:
        rows = torch.arange(x.shape[1]).unflatten(0, (-1, block))[:, order].flatten()
        return x[:, rows]

    return apply


def _gates_then_ups(x: torch.Tensor) -> torch.Tensor:
    return torch.cat((x[:, 0::2], x[:, 1::2]), dim=1)


def _ups_then_gates(x: torch.Tensor) -> torch.Tensor:
    return torch.cat((x[:, 1::2], x[:, 0::2]), dim=1)


def _interleave_halves(x: torch.Tensor) -> torch.Tensor:
    return x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)


def _swap_pairs(x: torch.Tensor) -> torch.Tensor:
    return x.unflatten(1, (-1, 2)).flip(2).flatten(1, 2)


_GATE_UP = ("gate_up",)
EDITS = (
    Edit("rows de-interleaved, gates first", _gates_then_ups, 2, matrices=_GATE_UP),
    Edit("rows de-interleaved, ups first", _ups_then_gates, 2, matrices=_GATE_UP),
    Edit("halves interleaved once more", _interleave_halves, 2, matrices=_GATE_UP),
    Edit("gate and up swapped", _swap_pairs, 2, matrices=_GATE_UP),
    Edit("rows exchanged in pairs", _swap_pairs, 2, matrices=("down",)),
    Edit("row shuffle 32 (epilogue tile 128)", _shuffle(32, 4), 32),
    Edit("row shuffle 16 (epilogue tile 64)", _shuffle(16, 2), 16),
    Edit("rows shifted by one", lambda x: x.roll(1, 1)),
    Edit("rows shifted back by one", lambda x: x.roll(-1, 1)),
    Edit("rows reversed", lambda x: x.flip(1)),
    Edit("experts shifted by one", lambda x: x.roll(1, 0)),
    Edit("experts shifted back by one", lambda x: x.roll(-1, 0)),
    Edit("experts reversed", lambda x: x.flip(0)),
    Edit("expert 0 in every place", lambda x: x[:1].expand_as(x)),
    Edit("K blocks shifted by one", lambda x: x.roll(1, 2), kinds=("blocks", "scales")),
    Edit(
        "K blocks shifted back by one",
        lambda x: x.roll(-1, 2),
        kinds=("blocks", "scales"),
    ),
    Edit("K blocks reversed", lambda x: x.flip(2), kinds=("blocks", "scales")),
    Edit("bytes reversed in each block", lambda x: x.flip(-1), kinds=("blocks",)),
    Edit("nibbles swapped", lambda x: (x >> 4) | (x << 4), kinds=("blocks",)),
    Edit("signs flipped", lambda x: x ^ 0x88, kinds=("blocks",)),
    Edit("biased exponents one high", lambda x: x + 1, kinds=("scales",)),
    Edit("biased exponents one low", lambda x: x - 1, kinds=("scales",)),
    Edit("biased exponents two high", lambda x: x + 2, kinds=("scales",)),
    Edit("biased exponents two low", lambda x: x - 2, kinds=("scales",)),
    Edit("sign flipped", lambda x: -x, kinds=("bias",)),
    Edit("halved", lambda x: x / 2, kinds=("bias",)),
    Edit("doubled", lambda x: x * 2, kinds=("bias",)),
    Edit("times 4", lambda x: x * 4, kinds=("bias",)),
    Edit("a quarter", lambda x: x / 4, kinds=("bias",)),
    Edit("all zero", torch.zeros_like),
)


def explain_tensor(
    name: str, found: torch.Tensor, expected: torch.Tensor, *, most: int = 2
) -> list[str]:
    """Every single edit that gives `found`, else every pair, else nothing.

    name : the field of `ExpertWeights` that the tensor comes from. most : 1 for no
    pairs.
    """
    if (found.shape, found.dtype) != (expected.shape, expected.dtype):
        return []
    target, source = as_bytes(found), expected.cpu()
    hits = [e.name for e, edited in _edited(name, source) if _same(edited, target)]
    if hits or most < 2 or source.numel() * source.element_size() > _PAIRS_UP_TO_BYTES:
        return hits
    return [
        f"{first.name}, then {second.name}"
        for first, once in _edited(name, source)
        for second, twice in _edited(name, once)
        if _same(twice, target)
    ]


def explain_bytes(
    found: Mapping[str, torch.Tensor],
    expected: Mapping[str, torch.Tensor],
    name: str,
    causes: Callable[[str], list[str]],
) -> list[str]:
    """Lines for `name`, and whether the tensors beside it agree with it.

    causes : names what explains one tensor; empty if nothing does.
    """
    lines = [f"why    {name}: {_any_of(causes(name))}"]
    matrix = name.rpartition("_")[0]
    for other, wanted in expected.items():
        if other == name or other.rpartition("_")[0] != matrix:
            continue
        got = found[other]
        if got.shape == wanted.shape and _same(wanted, as_bytes(got)):
            lines.append(f"       {other}: as specified, so the two disagree")
        else:
            lines.append(f"       {other}: {_any_of(causes(other))}")
    return lines


def _any_of(edits: list[str]) -> str:
    if not edits:
        return NO_EDIT
    return edits[0] if len(edits) == 1 else "any of: " + "; ".join(edits[:4])


def _edited(name: str, tensor: torch.Tensor) -> Iterator[tuple[Edit, torch.Tensor]]:
    for edit in EDITS:
        if edit.fits(name, tensor):
            edited = edit.apply(tensor)
            if not _same(edited, as_bytes(tensor)):
                yield edit, edited


def _same(tensor: torch.Tensor, target: torch.Tensor) -> bool:
    return torch.equal(as_bytes(tensor), target)
