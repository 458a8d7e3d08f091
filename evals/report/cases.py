"""The cases of the JUnit file: checks, faults, ranks, gates and searches."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence

from mxmoe.evals.report.document import Case
from mxmoe.evals.report.located import located_name
from mxmoe.evals.report.located import located_text
from mxmoe.evals.report.run_data import RunData


def cases(runs: Sequence[RunData]) -> Iterator[Case]:
    """In the order of the runs."""
    for run in runs:
        yield from _checks(run)
        yield from _faults(run)
        yield from _ranks(run)
        if run.command == "gate":
            yield _gate(run)
        if run.command == "locate":
            yield _located(run)


def _checks(run: RunData) -> Iterator[Case]:
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


def _faults(run: RunData) -> Iterator[Case]:
    for kill in run.kills:
        outcome = "skipped" if kill.reason else "ok"
        yield Case(
            suite=f"faults {run.folder.name}",
            group=f"{kill.base}.{kill.level}",
            name=f"{kill.fault}, seed {kill.seed}",
            outcome="failed" if kill.survived else outcome,
            message=kill.reason or ("survived" if kill.survived else ""),
            seconds=kill.seconds,
        )


def _ranks(run: RunData) -> Iterator[Case]:
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


def _gate(run: RunData) -> Case:
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


def _located(run: RunData) -> Case:
    """Skipped where the candidate, or the model without it, did not run."""
    code = run.facts.get("exit_code")
    ended = "failed" if code == 1 else "skipped"
    return Case(
        suite=f"locate {run.folder.name}",
        group="locate",
        name=located_name(run),
        outcome="ok" if code == 0 else ended,
        message=run.verdict,
        text=located_text(run),
    )
