"""Tactics: the tile sizes of one layer's launches, and which are taken for a shape.

The choice is a pure function of the number of slots and of experts, so the same input
runs the same kernels. It was measured on an H100: see ``kernels/NOTES.md``.
"""

from __future__ import annotations

import re
from collections.abc import Container
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from mxmoe.reference.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class GemmTactic:
    """How one of the two GEMMs runs.

    rows : tiles of 64 weight rows of a program. columns : tiles of 64 of K of one
    step. stages : steps whose loads are under way at once. warps : of a program.
    """

    rows: int
    columns: int
    stages: int
    warps: int

    def __post_init__(self) -> None:
        _expect("rows", self.rows, (1, 2, 4))
        _expect("columns", self.columns, (1, 2, 4))
        _expect("stages", self.stages, range(1, 9))
        _expect("warps", self.warps, (4, 8))

    def label(self) -> str:
        """E.g. ``1x2s4w4``."""
        return f"{self.rows}x{self.columns}s{self.stages}w{self.warps}"

    def registers(self) -> dict[str, int]:
        """The option that keeps 16 warps or more on a multiprocessor.

        It has 65,536 registers, 128 for each of 16 * 32 threads.
        """
        return {"maxnreg": 128}


@dataclass(frozen=True, kw_only=True)
class Tactic:
    """How a layer runs.

    block_t : slots of one expert that a program takes together. splits : parts of K
    of the second GEMM, summed by the combine.
    """

    block_t: int
    gate_up: GemmTactic
    down: GemmTactic
    splits: int = 1

    def __post_init__(self) -> None:
        _expect("block_t", self.block_t, (16, 32, 64, 128, 256))
        _expect("splits", self.splits, range(1, 9))

    def label(self) -> str:
        """E.g. ``t16-1x2s4w4-1x1s6w4-k2``."""
        gemms = f"{self.gate_up.label()}-{self.down.label()}"
        return f"t{self.block_t}-{gemms}-k{self.splits}"


def _expect(name: str, value: int, known: Container[int]) -> None:
    if value not in known:
        raise BadInput(f"tactic: {name}: expected one of {known}, found {value}")


_GEMM = r"(\d+)x(\d+)s(\d+)w(\d+)"


def split_tiles(k_tiles: int, tactic: Tactic) -> int:
    """Tiles of K of one split of the second GEMM; the last split may have fewer."""
    steps = -(-k_tiles // tactic.down.columns)
    return -(-steps // tactic.splits) * tactic.down.columns


def parse_tactic(label: str) -> Tactic:
    """The inverse of `Tactic.label`; `BadInput` if it is none."""
    found = re.fullmatch(rf"t(\d+)-{_GEMM}-{_GEMM}-k(\d+)", label)
    if found is None:
        raise BadInput(
            f"tactic: expected a label like t16-2x1s4w4-2x1s4w4-k1, found {label!r}"
        )
    block_t, *gemms, splits = map(int, found.groups())
    names = ("rows", "columns", "stages", "warps")
    return Tactic(
        block_t=block_t,
        gate_up=GemmTactic(**dict(zip(names, gemms[:4], strict=True))),
        down=GemmTactic(**dict(zip(names, gemms[4:], strict=True))),
        splits=splits,
    )


def _tactic(block_t: int, gate_up: str, down: str, splits: int = 1) -> Tactic:
    return parse_tactic(f"t{block_t}-{gate_up}-{down}-k{splits}")


BY_SLOTS: Mapping[int, Tactic] = MappingProxyType(
    {
        4: _tactic(16, "1x2s4w4", "1x1s4w4", splits=2),
        16: _tactic(16, "2x1s4w4", "2x1s4w4", splits=2),
        32: _tactic(16, "1x2s4w4", "1x1s4w4", splits=2),
    }
)
"""Up to so many slots, the tactic: programs are few, and time goes by latencies."""

BY_SLOTS_PER_EXPERT: Mapping[float, Tactic] = MappingProxyType(
    {
        0.5: _tactic(16, "2x1s4w4", "2x1s4w4"),
        1.25: _tactic(16, "2x1s4w4", "1x2s4w4"),
        3: _tactic(32, "2x1s4w4", "2x1s4w4"),
        64: _tactic(64, "2x1s4w4", "2x1s4w4"),
        float("inf"): _tactic(128, "2x1s3w8", "2x1s3w8"),
    }
)
"""For more slots: up to so many of an expert, on average, the tactic."""

TACTICS: tuple[Tactic, ...] = tuple(
    dict.fromkeys((*BY_SLOTS.values(), *BY_SLOTS_PER_EXPERT.values()))
)
"""All that can be chosen; every one is right for every shape."""


def choose(slots: int, experts: int) -> Tactic:
    """The tactic for `slots` = t * top_k of a rank with `experts` experts."""
    for most, tactic in BY_SLOTS.items():
        if slots <= most:
            return tactic
    average = slots / experts
    return next(t for most, t in BY_SLOTS_PER_EXPERT.items() if average <= most)
