"""From run directories to one `Report`: what is said, and in which order."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from mxmoe.conformance.suite.run_facts import now
from mxmoe.evals.report.attribution import attribution_section
from mxmoe.evals.report.cases import cases
from mxmoe.evals.report.document import Mark
from mxmoe.evals.report.document import Report
from mxmoe.evals.report.document import Statement
from mxmoe.evals.report.environment import environment
from mxmoe.evals.report.failures import failures
from mxmoe.evals.report.flips import comparisons
from mxmoe.evals.report.flips import flips
from mxmoe.evals.report.gate_section import GateRun
from mxmoe.evals.report.gate_section import gate_runs
from mxmoe.evals.report.gate_section import gate_section
from mxmoe.evals.report.kill_matrix import kill_matrix
from mxmoe.evals.report.located import located
from mxmoe.evals.report.not_run import not_run
from mxmoe.evals.report.other_runs import other_runs
from mxmoe.evals.report.run_data import RunData
from mxmoe.evals.report.run_data import read_data
from mxmoe.evals.report.speed import speed
from mxmoe.evals.report.stage_matrix import stage_matrix
from mxmoe.evals.report.statement import statement
from mxmoe.evals.report.subjects import subjects
from mxmoe.evals.report.trend import trend
from mxmoe.reference.errors import BadInput


def build_report(folders: Sequence[Path], *, baseline: Path | None = None) -> Report:
    """Read `folders` and say what they say.

    baseline : the run directory of a gate that the gates are compared with. Raises
    `BadInput` for a folder that is no run directory, or one that is damaged.
    """
    runs = [read_data(folder) for folder in folders]
    judged = subjects(runs)
    gates = gate_runs(runs)
    against = None if baseline is None else _baseline(baseline)
    sections = (
        failures(judged),
        located(runs),
        not_run(judged),
        stage_matrix(judged),
        attribution_section(judged),
        gate_section(gates),
        flips(comparisons(runs, gates, against)),
        trend(gates),
        kill_matrix(runs),
        speed(runs),
        other_runs(runs),
        environment(runs),
    )
    return Report(
        title=_title([one.name for one in judged], runs),
        made=now(),
        version=metadata.version("mxmoe-conformance"),
        runs=tuple((str(run.folder), f"{run.command}: {run.verdict}") for run in runs),
        statements=_worst_first(map(statement, judged)),
        sections=sections,
        cases=tuple(cases(runs)),
    )


def _worst_first(statements: Iterable[Statement]) -> tuple[Statement, ...]:
    order = (Mark.BAD, Mark.IDLE, Mark.NOTE, Mark.GOOD)
    return tuple(sorted(statements, key=lambda one: order.index(one.mark)))


def _baseline(folder: Path) -> GateRun:
    found = gate_runs([read_data(folder)])
    if not found:
        raise BadInput(f"{folder}: expected the run of a gate, found none")
    return found[0]


def _title(names: Sequence[str], runs: Sequence[RunData]) -> str:
    about = ", ".join(names) or ", ".join(dict.fromkeys(run.command for run in runs))
    return f"mxmoe report: {about}"
