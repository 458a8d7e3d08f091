"""Two gates on the same questions: what flipped, and is the second one worse?"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence

from mxmoe.evals.gate.paired import Paired
from mxmoe.evals.gate.paired import compare_paired
from mxmoe.evals.grade_school.frozen import load_test_problems
from mxmoe.evals.report.document import Cell
from mxmoe.evals.report.document import Mark
from mxmoe.evals.report.document import Section
from mxmoe.evals.report.document import Table
from mxmoe.evals.report.gate_section import GateRun
from mxmoe.evals.report.gate_section import newest

_TASK = "grade_school"
_COLUMNS = ("question", "flip", "asked", "baseline wrote", "run wrote")
_TOTALS = ("run", "verdict", "asked", "lost", "gained", "drop", "95 %", "p")
_FILL = "mxmoe report RUN --baseline RUN   (both of mxmoe gate, best with --full)"


def flips(gates: Sequence[GateRun], baseline: GateRun | None) -> Section:
    """Each gate against the baseline, on the questions that both answered."""
    says: list[str] = []
    rows, details, worse = [], [], False
    others = [] if baseline is None else _others(gates, baseline)
    shown = newest(others)
    for gate in others:
        assert baseline is not None
        found = _compare(baseline, gate)
        if found is None:
            says.append(f"{gate.run.folder}: no question in common with the baseline.")
            continue
        worse = worse or found.worse
        rows.append(_row(gate, found))
        if gate in shown:
            says.append(_said(gate.name, found))
            details.append(_table(gate, baseline, found))
    title = f"Each gate against {baseline.run.folder}" if baseline is not None else ""
    total = Table(caption=title, columns=_TOTALS, rows=tuple(rows))
    return Section(
        key="flips",
        title="Paired flips",
        mark=Mark.PLAIN if not rows else Mark.BAD if worse else Mark.GOOD,
        count="worse" if worse else "",
        says=tuple(says),
        tables=(total,) if rows else (),
        details=tuple(table for table in details if table.rows),
        fill=_FILL,
    )


def _others(gates: Sequence[GateRun], baseline: GateRun) -> list[GateRun]:
    own = baseline.run.folder.resolve()
    return [gate for gate in gates if gate.run.folder.resolve() != own]


def _compare(baseline: GateRun, gate: GateRun) -> Paired | None:
    """None where nothing was asked of both."""
    mine, theirs = ({a.question for a in g.counted} for g in (gate, baseline))
    common = sorted(mine & theirs)
    if not common:
        return None
    return compare_paired(_right(baseline, common), _right(gate, common))


def _right(gate: GateRun, common: Sequence[int]) -> dict[str, bool]:
    answers = gate.run.answers
    return {str(question): answers[question].correct for question in common}


def _row(gate: GateRun, found: Paired) -> tuple[Cell, ...]:
    low, high = (100 * end for end in found.interval)
    word, mark = ("worse", Mark.BAD) if found.worse else ("not worse", Mark.GOOD)
    return (
        Cell(text=gate.run.folder.name, code=True),
        Cell(text=word, mark=mark),
        Cell(text=str(found.asked), number=found.asked),
        Cell(text=str(len(found.lost)), number=len(found.lost)),
        Cell(text=str(len(found.gained)), number=len(found.gained)),
        Cell(text=f"{100 * found.drop:.2f}", number=found.drop),
        Cell(text=f"{low:.2f} to {high:.2f}", number=low),
        Cell(text=f"{found.p_worse:.2g}", number=found.p_worse),
    )


def _said(name: str, found: Paired) -> str:
    low, high = (100 * end for end in found.interval)
    seen = ""
    if found.detectable is not None:
        seen = f" A drop of {100 * found.detectable:.2g} points would have been seen."
    word = "worse" if found.worse else "not shown to be worse"
    return (
        f"{name} is {word} than the baseline on {found.asked} common questions: "
        f"{len(found.lost)} lost, {len(found.gained)} gained, net drop "
        f"{100 * found.drop:.2f} points (95 %: {low:.2f} to {high:.2f}), exact McNemar "
        f"p = {found.p_worse:.2g}.{seen}"
    )


def _table(gate: GateRun, baseline: GateRun, found: Paired) -> Table:
    question_of = _questions(gate)
    marks = {"lost": Mark.BAD, "gained": Mark.GOOD}
    rows = tuple(
        (
            Cell(text=question, number=int(question)),
            Cell(text=flip, mark=marks[flip]),
            Cell(text=question_of(int(question))),
            Cell(text=baseline.run.answers[int(question)].text, code=True),
            Cell(text=gate.run.answers[int(question)].text, code=True),
        )
        for flip, questions in (("lost", found.lost), ("gained", found.gained))
        for question in questions
    )
    return Table(
        caption=f"{gate.name}: questions that flipped", columns=_COLUMNS, rows=rows
    )


def _questions(gate: GateRun) -> Callable[[int], str]:
    """The text of a question by its number, where the task ships with us."""
    if gate.task != _TASK:
        return lambda number: ""
    problems = load_test_problems()
    return lambda number: (
        problems[number].question if 0 <= number < len(problems) else ""
    )
