"""What one comparison leaves in its run directory beside ``run.json``."""

from __future__ import annotations

from typing import Any

from mxmoe.conformance.rundir import RunWriter
from mxmoe.conformance.rundir import json_number
from mxmoe.evals.peer_rules.findings import BOUND
from mxmoe.evals.peer_rules.findings import SUITE
from mxmoe.evals.peer_rules.findings import Result
from mxmoe.evals.peer_rules.table import fault_rows
from mxmoe.evals.peer_rules.table import markdown
from mxmoe.evals.peer_rules.table import text_lines
from mxmoe.evals.peer_rules.table import total_rows
from mxmoe.evals.peer_rules.table import write_csv


def write_files(writer: RunWriter, result: Result) -> list[str]:
    """Write peers.csv, faults.md, totals.md and table.txt; the lines of the last."""
    write_csv(writer.folder / "peers.csv", result)
    lines = text_lines(result)
    files = {
        "faults.md": markdown(fault_rows(result)),
        "totals.md": markdown(total_rows(result)),
        "table.txt": lines,
    }
    for name, text in files.items():
        (writer.folder / name).write_text("\n".join(text) + "\n", encoding="utf-8")
    return lines


def facts_of(result: Result) -> dict[str, Any]:
    """What ``--json`` and ``run.json`` say."""
    return {
        "effects": {name: json_number(e) for name, e in result.effects.items()},
        "silent": list(result.silent),
        "correct": list(result.correct),
        "own": {
            rule: {fault: result.cell(fault, rule, "own") for fault in result.effects}
            for rule in result.rules
        },
        "suite": {f: result.cell(f, SUITE, "suite") for f in result.effects},
        "totals": {
            rule: {
                "own": result.caught(rule, "own"),
                "own_gross": result.caught(rule, "own", result.gross()),
                "designed": result.caught(rule, "designed"),
                "bound_on_own": result.caught(BOUND, f"own:{rule}"),
                "alarms_own": result.alarms(rule, "own"),
                "alarms_designed": result.alarms(rule, "designed"),
            }
            for rule in result.rules
        },
        "bound": {
            "designed": result.caught(BOUND, "designed"),
            "alarms_designed": result.alarms(BOUND, "designed"),
        },
        "mxmoe": {
            "caught": result.caught(SUITE, "suite"),
            "alarms": result.alarms(SUITE, "suite"),
        },
    }
