"""The suite's credentials: which planted faults it catches, and where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from collections.abc import Sequence
from statistics import median

from mxmoe.conformance.faults.kill import CAUGHT
from mxmoe.conformance.faults.kill import PASSED
from mxmoe.conformance.faults.kill import Kill
from mxmoe.conformance.faults.matrix import LEVELS
from mxmoe.conformance.faults.matrix import by_fault
from mxmoe.conformance.faults.matrix import survivors
from mxmoe.conformance.judging.trial import level_of
from mxmoe.evals.report.document import Cell
from mxmoe.evals.report.document import Mark
from mxmoe.evals.report.document import Section
from mxmoe.evals.report.document import Table
from mxmoe.evals.report.run_data import RunData
from mxmoe.reference.errors import BadInput


def kill_matrix(runs: Sequence[RunData]) -> Section:
    """Every fault of every `mxmoe faults` run given."""
    kills = [kill for run in runs for kill in run.kills]
    faults = by_fault(kills)
    lost = set(survivors(kills))
    away = [n for n, seeds in faults.items() if all(one.reason for one in seeds)]
    judged = len(faults) - len(away)
    says: list[str] = []
    tables: tuple[Table, ...] = ()
    if faults:
        seconds = [k.seconds for k in kills if k.first is not None]
        says.append(
            f"{judged - len(lost)} of {judged} planted faults were caught"
            + (f", the median in {median(seconds):.2f} s" if seconds else "")
            + f"; {len(away)} could not be observed."
        )
        if lost:
            says.append(f"Survived: {', '.join(sorted(lost))}.")
        levels = Counter(_first_level(one) for one in kills if one.first)
        says.append(
            "First caught at "
            + ", ".join(f"{level}: {n}" for level, n in sorted(levels.items()))
            + "."
        )
        tables = (_table(faults, lost),)
    return Section(
        key="credentials",
        title="Can the suite be trusted? Planted faults",
        count=f"{judged - len(lost)} of {judged}" if faults else "",
        mark=Mark.PLAIN if not faults else Mark.BAD if lost else Mark.GOOD,
        says=tuple(says),
        tables=tables,
        fill="mxmoe faults",
    )


def _table(faults: Mapping[str, list[Kill]], lost: set[str]) -> Table:
    rows = tuple(_row(name, seeds, name in lost) for name, seeds in faults.items())
    columns = ("fault", "caught", "seconds", *LEVELS, "first check", "planted in")
    return Table(
        caption="Kill matrix: each planted fault by level", columns=columns, rows=rows
    )


def _row(name: str, seeds: Sequence[Kill], lost: bool) -> tuple[Cell, ...]:
    caught = [one for one in seeds if one.first is not None]
    reason = next((one.reason for one in seeds if one.reason), "")
    first = (caught[0].first if caught else reason or "SURVIVED") or ""
    mark = Mark.BAD if lost else Mark.IDLE if not caught else Mark.GOOD
    seconds = median(one.seconds for one in caught) if caught else None
    return (
        Cell(text=name, code=True),
        Cell(
            text=f"{len(caught)} of {len(seeds)}",
            mark=mark,
            number=len(caught) / len(seeds),
        ),
        Cell(text="-" if seconds is None else f"{seconds:.2f}", number=seconds),
        *(_cell(seeds, level) for level in LEVELS),
        Cell(text=first),
        Cell(text=seeds[0].base),
    )


def _cell(seeds: Sequence[Kill], level: str) -> Cell:
    words = {
        word
        for one in seeds
        for check, word in one.checks.items()
        if _level_of(check) == level
    }
    if CAUGHT in words:
        return Cell(text="caught", mark=Mark.GOOD, number=2)
    if PASSED in words:
        return Cell(text="passed", number=1)
    return Cell(text="-", number=0)


def _first_level(kill: Kill) -> str:
    return _level_of(str(kill.first))


def _level_of(check: str) -> str:
    try:
        return level_of(check)
    except KeyError as error:
        raise BadInput(
            f"faults.jsonl: expected a check of the suite, found {check!r:.80}"
        ) from error
