"""A result as text, as Markdown and as CSV."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from mxmoe.conformance import escape
from mxmoe.evals.peer_rules.findings import BOUND
from mxmoe.evals.peer_rules.findings import GROSS
from mxmoe.evals.peer_rules.findings import SUITE
from mxmoe.evals.peer_rules.findings import Finding
from mxmoe.evals.peer_rules.findings import Result
from mxmoe.evals.peer_rules.findings import Word
from mxmoe.evals.peer_rules.peers import PEERS

Lines = list[list[str]]

_SUITE_TITLE = "mxmoe"
_BOUND_TITLE = "mxmoe's bound alone"


def fault_rows(result: Result, data: str = "own") -> Lines:
    """Title line, then one line a fault: name, effect, each rule, the suite."""
    lines = [["fault", "effect", *map(_title, result.rules), _SUITE_TITLE]]
    for fault, effect in result.effects.items():
        words = [result.cell(fault, rule, data) for rule in result.rules]
        words.append(result.cell(fault, SUITE, "suite"))
        lines.append([fault, _percent(effect), *words])
    return lines


def total_rows(result: Result) -> Lines:
    """Title line, then one line a rule: what it catches, and its false alarms."""
    n, gross = len(result.effects), result.gross()
    lines = [
        [
            "rule",
            f"of {n} faults, its own data",
            f"of the {len(gross)} with an effect from {GROSS:.0%}",
            "not visible in its data",
            "the bound on its data",
            f"of {n}, designed data",
            f"false alarms of {len(result.correct)}: own data",
            "designed data",
        ]
    ]
    for rule in result.rules:
        unseen = [f for f in result.effects if result.cell(f, rule, "own") == "unseen"]
        lines.append(
            [
                _title(rule),
                str(result.caught(rule, "own")),
                str(result.caught(rule, "own", gross)),
                str(len(unseen)),
                str(result.caught(BOUND, f"own:{rule}")),
                str(result.caught(rule, "designed")),
                str(len(result.alarms(rule, "own"))),
                str(len(result.alarms(rule, "designed"))),
            ]
        )
    designed = str(result.caught(BOUND, "designed"))
    false = str(len(result.alarms(BOUND, "designed")))
    lines.append([_BOUND_TITLE, "", "", "", "", designed, "", false])
    suite = [str(result.caught(SUITE, "suite", f)) for f in (None, gross)]
    false = str(len(result.alarms(SUITE, "suite")))
    lines.append([_SUITE_TITLE, *suite, "0", "", "", false, ""])
    return lines


def text_lines(result: Result) -> list[str]:
    """For a terminal: numbered columns, a legend, the totals."""
    faults = fault_rows(result)
    count = len(result.rules)
    faults[0] = ["fault", "effect", *map(str, range(1, count + 1)), _SUITE_TITLE]
    legend = [
        f"{n}  {_title(r)}: {PEERS[r].says}" for n, r in enumerate(result.rules, 1)
    ]
    totals = [*zip(*total_rows(result), strict=True)]
    titles = ["", *map(str, range(1, count + 1)), "bound", _SUITE_TITLE]
    turned = [titles, *([*line] for line in totals[1:])]
    return [*_aligned(faults), "", *legend, "", *_aligned(turned)]


def markdown(lines: Lines) -> list[str]:
    """A Markdown table; what a rule accepts is bold."""
    head, *rows = lines
    ruled = [head, ["---"] * len(head), *([*map(_bold, row)] for row in rows)]
    return [f"| {' | '.join(row)} |".replace("|  |", "| |") for row in ruled]


def write_csv(path: Path, result: Result) -> None:
    """One line for each finding."""
    with path.open("w", encoding="utf-8", newline="") as file:
        header = ("subject", "effect", "rule", "data", "seed", "word")
        escape.write_csv(file, header, map(partial(_csv_line, result), result.findings))


def _csv_line(result: Result, finding: Finding) -> list[object]:
    effect = result.effects.get(finding.subject)
    shown = "" if effect is None else f"{effect:.6g}"
    return [
        *(finding.subject, shown, finding.rule, finding.data),
        *(finding.seed, finding.word),
    ]


def _title(rule: str) -> str:
    return PEERS[rule].title


def _percent(effect: float) -> str:
    """Two digits at most; `NaN` where the output is not finite."""
    if math.isinf(effect):
        return "NaN"
    return f"{100 * effect:.2g} %" if effect < 1 else f"{effect:.2g} x"


def _bold(word: str) -> str:
    return f"**{word}**" if word == Word.ACCEPTED else word


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(word.ljust(w) for word, w in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
