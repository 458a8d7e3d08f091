"""On what the runs were made."""

from __future__ import annotations

from collections.abc import Sequence

from mxmoe.evals.report.document import Cell
from mxmoe.evals.report.document import Section
from mxmoe.evals.report.document import Table
from mxmoe.evals.report.run_data import RunData


def environment(runs: Sequence[RunData]) -> Section:
    """One column a run: command, times, device, versions, allow-listed variables."""
    facts = [_facts(run) for run in runs]
    names = list(dict.fromkeys(name for one in facts for name in one))
    rows = tuple(
        (Cell(text=name), *(Cell(text=one.get(name, "-"), code=True) for one in facts))
        for name in names
    )
    table = Table(
        caption="Machine, versions and settings of each run",
        columns=("fact", *(str(run.folder) for run in runs)),
        rows=rows,
    )
    return Section(key="environment", title="Environment", tables=(table,))


def _facts(run: RunData) -> dict[str, str]:
    facts = run.facts
    found = {
        "command": f"mxmoe {run.command}",
        "verdict": run.verdict,
        **{
            name: str(facts[name])
            for name in ("started", "finished", "device", "sm", "driver", "platform")
            if facts.get(name) is not None
        },
    }
    for title, name in (("", "versions"), ("", "environment"), ("option ", "options")):
        values = facts.get(name)
        for key, value in values.items() if isinstance(values, dict) else ():
            if value not in (None, "", [], False):
                found[f"{title}{key}"] = str(value)
    checkpoint = facts.get("checkpoint")
    if isinstance(checkpoint, dict):
        folder = checkpoint.get("folder") or "embedded"
        found["checkpoint"] = f"{folder}, {checkpoint.get('shape')}"
    return found
