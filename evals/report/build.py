"""From run directories to one `Report`: what is said, and in which order."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from mxmoe.conformance.run_facts import now
from mxmoe.evals.report.attribution import attribution_section
from mxmoe.evals.report.document import Case
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
        cases=tuple(_cases(runs)),
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


def _cases(runs: Sequence[RunData]) -> Iterator[Case]:
    for run in runs:
        for line in run.verdicts:
            file, _, name = line.check.partition("::")
            outcome = "ok" if line.verdict.judged else "skipped"
            yield Case(
                suite=f"{run.command} {run.folder.name}",
                group=f"{line.candidate}.{line.level}.{file.removesuffix('.py')}",
                name=name or line.check,
                outcome="failed" if line.verdict.failed else outcome,
                message=line.reason or str(line.verdict),
                text=line.text,
                seconds=line.seconds,
            )
        for kill in run.kills:
            yield Case(
                suite=f"faults {run.folder.name}",
                group=f"{kill.base}.{kill.level}",
                name=f"{kill.fault}, seed {kill.seed}",
                outcome="failed"
                if kill.survived
                else "skipped"
                if kill.reason
                else "ok",
                message=kill.reason or ("survived" if kill.survived else ""),
                seconds=kill.seconds,
            )
        for number, layer in run.layers.items():
            for rank in layer.ranks:
                yield Case(
                    suite=f"verify {run.folder.name}",
                    group=f"layer {number}",
                    name=rank.shard,
                    outcome="failed" if rank.verdict.failed else "ok",
                    message=", ".join(rank.tensors),
                    text=rank.text,
                    seconds=rank.prepare_seconds + rank.compare_seconds,
                )
        if run.command == "gate":
            yield _gate_case(run)


def _gate_case(run: RunData) -> Case:
    verdict = str(run.facts.get("verdict"))
    reasons = run.facts.get("reasons")
    said = "\n".join(map(str, reasons)) if isinstance(reasons, list) else ""
    outcomes = {"pass": "ok", "fail": "failed"}
    return Case(
        suite=f"gate {run.folder.name}",
        group="gate.L5",
        name=str(run.options.get("candidate")),
        outcome=outcomes.get(verdict, "skipped"),
        message=f"{verdict}: {said.partition(chr(10))[0]}",
        text=said,
        seconds=sum(line.seconds for line in run.answers.values()),
    )
