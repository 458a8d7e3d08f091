"""The task score with the candidate inside, and when it was certain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from mxmoe.evals.gate.answer_lines import AnswerLine
from mxmoe.evals.gate.counted import counted_answers
from mxmoe.evals.gate.evidence import DELTA
from mxmoe.evals.gate.evidence import log_evidence
from mxmoe.evals.gate.risk import Boundaries
from mxmoe.evals.gate.risk import stopping_boundaries
from mxmoe.evals.gate.rule import Rule
from mxmoe.evals.gate.verdict import GateVerdict
from mxmoe.evals.report.document import Cell
from mxmoe.evals.report.document import Mark
from mxmoe.evals.report.document import Picture
from mxmoe.evals.report.document import Section
from mxmoe.evals.report.document import Table
from mxmoe.evals.report.pictures.chart import Axis
from mxmoe.evals.report.pictures.chart import Series
from mxmoe.evals.report.pictures.chart import draw_chart
from mxmoe.evals.report.run_data import RunData
from mxmoe.evals.report.subjects import gate_name

_COLUMNS = ("candidate", "verdict", "right", "answered", "of", "needed", "run")
_MARKS = {"pass": Mark.GOOD, "fail": Mark.BAD}
# Points of a curve: more than a picture has pixels show nothing.
_POINTS = 180
_ODDS = math.log10(1 / DELTA)
# Where evidence is infinite a logarithm has an end all the same.
_CERTAIN = 6.0
# Wrong answers of a run that already failed, as shown: all of them would hide the rule.
_LEAST_SHOWN = 12
_WRONG_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class GateRun:
    """A gate read back. counted : the answers that decided, in the registered order."""

    name: str
    run: RunData
    task: str
    rule: Rule
    counted: tuple[AnswerLine, ...]

    @property
    def right(self) -> list[bool]:
        """Of each counted answer."""
        return [line.correct for line in self.counted]

    @property
    def whole(self) -> bool:
        """Whether every question was answered: only such runs have a score."""
        return len(self.counted) == self.rule.asked


def gate_runs(runs: Sequence[RunData]) -> list[GateRun]:
    """Those of `runs` that are gates with a rule; an early end has none."""
    found = []
    for run in runs:
        rule, protocol = run.facts.get("rule"), run.facts.get("protocol")
        if run.command == "gate" and isinstance(rule, dict):
            found.append(_read(run, rule, protocol))
    return found


def _read(run: RunData, rule: dict[str, int], protocol: Any) -> GateRun:
    counted = counted_answers(run.answers, run.facts, f"{run.folder / 'run.json'}")
    return GateRun(
        name=gate_name(run),
        run=run,
        task=str(protocol.get("task")),
        rule=Rule(**rule),
        counted=counted,
    )


def newest(gates: Sequence[GateRun]) -> list[GateRun]:
    """The last run of each candidate: by its start, where that was kept."""
    ordered = sorted(gates, key=lambda gate: str(gate.run.facts.get("started", "")))
    return list({gate.name: gate for gate in ordered}.values())


def gate_section(gates: Sequence[GateRun]) -> Section:
    """The table of runs; of the newest of each candidate, path and evidence."""
    says, pictures, details = [], [], []
    for gate in newest(gates):
        reasons = gate.run.facts.get("reasons")
        if isinstance(reasons, list) and reasons:
            says.append(f"{gate.name}: {'; '.join(map(str, reasons))}.")
        if gate.counted:
            pictures += [_path(gate), _evidence(gate)]
        wrong = [line for line in gate.counted if not line.correct]
        if wrong:
            details.append(_wrong(gate, wrong))
    rows = tuple(_row(gate) for gate in gates)
    title = "Gates: the task with the candidate inside"
    table = Table(caption=title, columns=_COLUMNS, rows=rows)
    verdicts = {str(gate.run.facts.get("verdict")) for gate in gates}
    return Section(
        key="gate",
        title="The gate: the task score",
        count=", ".join(word for word in GateVerdict if word in verdicts),
        mark=Mark.BAD
        if "fail" in verdicts
        else Mark.GOOD
        if verdicts == {"pass"}
        else Mark.PLAIN,
        says=tuple(says),
        tables=(table,) if gates else (),
        pictures=tuple(pictures),
        details=tuple(details),
        fill="mxmoe gate -c CANDIDATE",
    )


def _row(gate: GateRun) -> tuple[Cell, ...]:
    verdict = str(gate.run.facts.get("verdict"))
    right = sum(gate.right)
    return (
        Cell(text=gate.name),
        Cell(text=verdict, mark=_MARKS.get(verdict, Mark.IDLE)),
        Cell(text=str(right), number=right),
        Cell(text=str(len(gate.counted)), number=len(gate.counted)),
        Cell(text=str(gate.rule.asked), number=gate.rule.asked),
        Cell(text=str(gate.rule.least_correct), number=gate.rule.least_correct),
        Cell(text=str(gate.run.folder), code=True),
    )


def _wrong(gate: GateRun, wrong: Sequence[AnswerLine]) -> Table:
    shown = wrong[:_WRONG_SHOWN]
    rows = tuple(
        (
            Cell(text=str(line.question), number=line.question),
            Cell(text=line.extracted or "none", code=True),
            Cell(text=line.finish_reason),
            Cell(text=line.text, code=True),
        )
        for line in shown
    )
    more = (
        f", the first {len(shown)} of {len(wrong)}" if len(wrong) > len(shown) else ""
    )
    return Table(
        caption=f"{gate.name}: wrong answers in the order of asking{more}",
        columns=("question", "extracted", "ended by", "what the model wrote"),
        rows=rows,
    )


@cache
def _boundaries(rule: Rule) -> Boundaries:
    return stopping_boundaries(rule)


def _path(gate: GateRun) -> Picture:
    """Wrong answers over questions, between the boundaries of fail and pass."""
    rule, counted = gate.rule, len(gate.counted)
    limits = _boundaries(rule)
    end = min(rule.asked, max(counted * 5 // 4, _LEAST_SHOWN))
    wrong = [0]
    for right in gate.right:
        wrong.append(wrong[-1] + (not right))
    at = _every(end + 1)
    fails = [(t, t - limits.fail_at_most[t]) for t in at if limits.fail_at_most[t] >= 0]
    passes = [
        (t, t - limits.pass_at_least[t]) for t in at if limits.pass_at_least[t] <= t
    ]
    top = max([wrong[-1], 3, *(y for _, y in fails)])
    says = (
        f"{gate.name}: {wrong[-1]} wrong among {counted} answered questions; verdict "
        f"{gate.run.facts.get('verdict')}. At the upper dashed line the run fails, at "
        "the lower one it passes."
    )
    series = [
        Series(
            name="wrong answers",
            points=[(t, wrong[t]) for t in _every(len(wrong))],
        ),
        Series(name="fail from here up", points=fails, kind="limit"),
        Series(name="pass from here down", points=passes, kind="limit"),
    ]
    return Picture(
        title=f"{gate.name}: where the run stood",
        says=says,
        svg=draw_chart(
            [one for one in series if one.points],
            across=Axis(name="questions answered", low=0, high=end),
            up=Axis(name="wrong answers", low=0, high=top * 1.05),
            says=says,
            notes=((counted, f"stopped at {counted}"),),
        ),
        data={"wrong": wrong},
    )


def _evidence(gate: GateRun) -> Picture:
    """The bet that the whole run would fail, and the bet that it would pass."""
    right, at = gate.right, _every(len(gate.counted) + 1)
    counts = [0]
    for answer in right:
        counts.append(counts[-1] + answer)
    odds = [log_evidence(gate.rule, t, counts[t]) for t in at]
    to_fail = [(t, _log10(fail)) for t, (fail, _) in zip(at, odds, strict=True)]
    to_pass = [(t, _log10(won)) for t, (_, won) in zip(at, odds, strict=True)]
    says = (
        f"{gate.name}: evidence in powers of ten; at 3, 1000 to 1, the run stops. "
        f"At the end {_said(to_pass[-1][1])} to pass, {_said(to_fail[-1][1])} to fail."
    )
    return Picture(
        title=f"{gate.name}: evidence each way",
        says=says,
        svg=draw_chart(
            [
                Series(name="that it would pass", points=to_pass),
                Series(name="that it would fail", points=to_fail),
                Series(
                    name="enough: 1000 to 1",
                    points=[(0, _ODDS), (max(at), _ODDS)],
                    kind="limit",
                ),
            ],
            across=Axis(name="questions answered", low=0, high=max(*at, 1)),
            up=Axis(name="log10 of the odds", low=-_CERTAIN, high=_CERTAIN),
            says=says,
        ),
        data={"answered": at, "to_pass": to_pass, "to_fail": to_fail},
    )


def _every(count: int) -> list[int]:
    """0 .. count-1, thinned, both ends kept."""
    step = max(1, count // _POINTS)
    return sorted({*range(0, count, step), max(count - 1, 0)})


def _log10(evidence: float) -> float:
    return max(-_CERTAIN, min(_CERTAIN, evidence / math.log(10)))


def _said(log10: float) -> str:
    if abs(log10) >= _CERTAIN:
        return "certain" if log10 > 0 else "excluded"
    return f"{10**log10:.0f} to 1" if log10 >= 0 else f"1 to {10**-log10:.0f}"
