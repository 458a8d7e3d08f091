"""The kill matrix: fault x level, the first check that caught it, the time."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mxmoe.conformance.escape import printable
from mxmoe.conformance.faults.kill import CAUGHT
from mxmoe.conformance.faults.kill import PASSED
from mxmoe.conformance.faults.kill import Kill
from mxmoe.conformance.judging.trial import level_of
from mxmoe.conformance.verdict import ExitCode

LEVELS = ("L0", "L1", "L2", "L3", "L4")

# A fault must be found whatever is drawn; one seed in a hundred may miss it.
FRACTION = 0.99


def by_fault(kills: Sequence[Kill]) -> dict[str, list[Kill]]:
    """All seeds of each fault."""
    found: dict[str, list[Kill]] = {}
    for one in kills:
        found.setdefault(one.fault, []).append(one)
    return found


def survivors(kills: Sequence[Kill]) -> list[str]:
    """Faults that were found in fewer than 99 % of the seeds."""
    return [
        name
        for name, seeds in by_fault(kills).items()
        if sum(one.survived for one in seeds) > (1 - FRACTION) * len(seeds)
    ]


def conclude_kills(kills: Sequence[Kill], seconds: float) -> tuple[ExitCode, str]:
    """The exit code, and the line that begins ``verdict:``."""
    faults = by_fault(kills)
    idle = [name for name, seeds in faults.items() if all(k.reason for k in seeds)]
    lost = survivors(kills)
    judged = len(faults) - len(idle)
    if not judged:
        return ExitCode.INVALID, "verdict: INVALID no fault could be observed"
    seeds = len({one.seed for one in kills})
    counted = f"{judged - len(lost)} of {judged} faults caught"
    around = f"{seeds} seed{'s' * (seeds > 1)}, {seconds:.0f} s"
    away = f", {len(idle)} not observable" if idle else ""
    if lost:
        named = ", ".join(lost)
        return ExitCode.FAIL, f"verdict: FAIL {counted}{away} ({around}): {named}"
    return ExitCode.PASS, f"verdict: PASS {counted}{away} ({around})"


# Names of faults have up to 43 letters and stay whole, as `--fault` takes them. Where
# it is narrower than this, the run directory alone has candidate and check.
_WIDE = 100


def print_matrix(console: Console, kills: Sequence[Kill]) -> None:
    """One row a fault. ``x`` caught, ``.`` passed, ``-`` nothing judged."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in _columns(console):
        table.add_column(name, no_wrap=name != "first check", overflow="ellipsis")
    for name, seeds in by_fault(kills).items():
        row = _row(name, seeds)
        table.add_row(*(row[column] for column in _columns(console)))
    console.print(table)


def _columns(console: Console) -> tuple[str, ...]:
    ends = ("first check", "caught", "s")
    if console.width < _WIDE:
        return ("fault", *LEVELS, *ends[1:])
    return ("fault", "in", *LEVELS, *ends)


def _row(name: str, seeds: Sequence[Kill]) -> Mapping[str, Text]:
    caught = [one for one in seeds if one.first is not None]
    away = next((one.reason for one in seeds if one.reason), "")
    first = (caught[0].first if caught else away or "SURVIVED") or ""
    seconds = f"{median(one.seconds for one in caught):.2f}" if caught else "-"
    return {
        "fault": Text(printable(name)),
        "in": Text(printable(seeds[0].base)),
        **{level: Text(_cell(seeds, level)) for level in LEVELS},
        "first check": Text(
            printable(first), style="" if caught or away else "red bold"
        ),
        "caught": Text(f"{len(caught)} of {len(seeds)}"),
        "s": Text(seconds),
    }


def _cell(seeds: Sequence[Kill], level: str) -> str:
    words = {
        word
        for one in seeds
        for check, word in one.checks.items()
        if level_of(check) == level
    }
    if CAUGHT in words:
        return "x"
    return "." if PASSED in words else "-" if words else ""


def as_json(kills: Sequence[Kill]) -> list[Mapping[str, Any]]:
    """One object a fault and seed."""
    return [
        {**vars(one), "checks": dict(one.checks), "survived": one.survived}
        for one in kills
    ]
