"""Stage x configuration: what was judged where, and how near to its bound it came."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass

from mxmoe.conformance.rundir import VerdictLine
from mxmoe.evals.report.document import Cell
from mxmoe.evals.report.document import Mark
from mxmoe.evals.report.document import Section
from mxmoe.evals.report.document import Table
from mxmoe.evals.report.subjects import Judged

STAGES = {
    "codec": "codec",
    "bytes": "prepared bytes",
    "ids": "ids",
    "weights": "weights",
    "gate_up": "gate_up",
    "activation": "activation",
    "down": "down",
    "combine": "combine",
    "all_reduce": "all_reduce",
}
"""In data-flow order, with what comes before the data: codec and bytes."""

WHOLE = "one rank"
_SHARED = ("codec", "ids", "weights")
_SHARD = re.compile(r"\b(tp\d+)r\d+(?:-(ep\d+)r\d+)?")
_BY_LEVEL = {
    "L0": "codec",
    "L1": "bytes",
    "L2": "ids",
    "L3": "combine",
    "L4": "all_reduce",
}
# Checks whose stage is not the one of their level.
_BY_CHECK = {
    "test_route_weights_are_the_softmax_of_the_chosen": "weights",
    "test_minus_one_contributes_nothing": "combine",
    "test_prepared_bytes_of_all_ranks_are_the_checkpoints": "bytes",
}


@dataclass(frozen=True, kw_only=True)
class Sighting:
    """What one check said of one stage in one configuration."""

    stage: str
    configuration: str
    shape: str
    good: bool
    worst: float | None


def stage_matrix(judged: Sequence[Judged]) -> Section:
    """One table of stages by ranks for each candidate, one of shapes below."""
    tables: list[Table] = []
    shapes: list[Table] = []
    for one in judged:
        seen = list(_sightings(one))
        if seen:
            tables.append(_by_ranks(one.name, seen))
        if any(sighting.shape for sighting in seen):
            shapes.append(_by_shape(one.name, seen))
    return Section(
        key="matrix",
        title="Stages and configurations",
        says=(
            "A number is the largest error divided by the largest that the arithmetic "
            "class allows: above 1 is a fault. Stages come in data-flow order.",
        )
        * bool(tables),
        tables=tuple(tables),
        details=tuple(shapes),
        fill="mxmoe check -c CANDIDATE",
    )


def stage_of(line: VerdictLine) -> str:
    """The stage that a check is about."""
    name = line.check.partition("::")[2].partition("[")[0]
    return _BY_CHECK.get(name, _BY_LEVEL.get(line.level, "combine"))


def ranks_of(words: str) -> str:
    """``tp8``, ``tp2 ep2`` or one rank: how the case or place was sharded."""
    found = _SHARD.search(words)
    if found is None:
        return WHOLE
    names = [name for name in found.groups() if name and name[2:] != "1"]
    return " ".join(names) or WHOLE


def _sightings(one: Judged) -> Iterator[Sighting]:
    for _, line in one.lines:
        if line.verdict.judged:
            yield from _of_line(line)
    for _, _, rank in one.ranks:
        yield Sighting(
            stage="bytes",
            configuration=ranks_of(rank.shard),
            shape="",
            good=not rank.verdict.failed,
            worst=None,
        )


def _of_line(line: VerdictLine) -> Iterator[Sighting]:
    failed = line.verdict.failed
    for part in line.measured:
        shape, _, shard = part.configuration.partition("/")
        yield Sighting(
            stage=part.stage,
            configuration=ranks_of(shard),
            shape=shape,
            good=part.worst <= 1,
            worst=part.worst,
        )
    # A failure without a number must show as well: a crash, a broken law.
    numbers_say_it = any(part.worst > 1 for part in line.measured) or not failed
    if not line.measured or not numbers_say_it:
        place = line.check.partition("[")[2]
        yield Sighting(
            stage=stage_of(line),
            configuration=ranks_of(line.case or place),
            shape="",
            good=not failed,
            worst=None if line.measured else line.worst,
        )


def _by_ranks(name: str, seen: Sequence[Sighting]) -> Table:
    columns = sorted({s.configuration for s in seen}, key=_natural)
    stages = [stage for stage in STAGES if any(s.stage == stage for s in seen)]
    stages += sorted({s.stage for s in seen} - set(STAGES))
    rows = [
        (
            Cell(text=STAGES.get(stage, stage), number=position),
            *(_at(seen, stage, column) for column in columns),
        )
        for position, stage in enumerate(stages)
    ]
    caption = f"{name}: each stage, by how the layer is divided"
    return Table(caption=caption, columns=("stage", *columns), rows=tuple(rows))


def _at(seen: Sequence[Sighting], stage: str, column: str) -> Cell:
    mine = [s for s in seen if s.stage == stage and s.configuration == column]
    # Ranks share the routing and the codec; one rank has nothing to reduce.
    nothing = stage == "all_reduce" if column == WHOLE else stage in _SHARED
    if nothing and not mine:
        return Cell(text="n/a", mark=Mark.NONE, number=-2)
    return _cell(mine)


def _by_shape(name: str, seen: Sequence[Sighting]) -> Table:
    shapes = sorted({s.shape for s in seen if s.shape}, key=_natural)
    stages = [s for s in STAGES if any(one.shape and one.stage == s for one in seen)]
    rows = [
        (
            Cell(text=shape, code=True),
            *(
                _cell(s for s in seen if s.shape == shape and s.stage == stage)
                for stage in stages
            ),
        )
        for shape in shapes
    ]
    caption = f"{name}: each shape or checkpoint layer that was drawn"
    return Table(caption=caption, columns=("shape", *stages), rows=tuple(rows))


def _cell(seen: Iterable[Sighting]) -> Cell:
    found = list(seen)
    if not found:
        return Cell(text="not run", mark=Mark.IDLE, number=-1)
    worst = max((s.worst for s in found if s.worst is not None), default=None)
    bad = sum(not s.good for s in found)
    number = math.inf if bad and worst is None else worst
    said = "" if worst is None else f" {ratio(worst)}"
    if bad:
        text = f"FAIL{said}" if said else f"FAIL {bad} of {len(found)}"
        return Cell(text=text, mark=Mark.BAD, number=number)
    return Cell(text=f"ok{said or f' ×{len(found)}'}", mark=Mark.GOOD, number=number)


def ratio(worst: float) -> str:
    """``0.82``, ``3e4``, or in words where nothing was finite."""
    if not math.isfinite(worst):
        return "not finite"
    return f"{worst:.2g}" if worst < 100 else f"{worst:.0e}".replace("e+0", "e")


def _natural(words: str) -> tuple[int, list[tuple[int, str]]]:
    """One rank first, tensor before expert parallel, numbers by their size."""
    parts = re.findall(r"\d+|\D+", words)
    first = 0 if words == WHOLE else 1 if words.startswith("tp") else 2
    return first, [
        (int(part), "") if part.isdecimal() else (-1, part) for part in parts
    ]
