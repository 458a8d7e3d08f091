"""Can this kernel be trusted, and on what grounds? One statement for each candidate."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from mxmoe.conformance.judging.experts_reached import all_reached
from mxmoe.conformance.suite.summary import LEVELS
from mxmoe.conformance.verdict import Verdict
from mxmoe.evals.gate.verdict import GateVerdict
from mxmoe.evals.report.document import LevelResult
from mxmoe.evals.report.document import Mark
from mxmoe.evals.report.document import Statement
from mxmoe.evals.report.explanation import explanation
from mxmoe.evals.report.gate_section import gate_runs
from mxmoe.evals.report.run_data import RunData
from mxmoe.evals.report.subjects import Judged

_TASK = "L5"
_COMMANDS = dict.fromkeys(LEVELS, "mxmoe check -c") | {_TASK: "mxmoe gate -c"}
_ELSEWHERE = {
    "emulated": "emulated: what the kernel would compute from these bytes, not the "
    "kernel on its device",
    "unexecuted": "unexecuted: no machine here could run it",
}


def statement(one: Judged) -> Statement:
    """What the runs together say of one candidate."""
    levels = tuple(_level(one, level, name) for level, name in LEVELS.items())
    levels += (_task_level(one.gates),)
    answer, mark, reason = _answer(one, levels)
    return Statement(
        candidate=one.name,
        answer=answer,
        mark=mark,
        reason=reason,
        levels=levels,
        facts=_facts(one),
        caveats=_caveats(one, levels),
    )


def _answer(one: Judged, levels: Sequence[LevelResult]) -> tuple[str, Mark, str]:
    failed = [line for _, line in one.lines if line.verdict.failed]
    broken = [rank for _, _, rank in one.ranks if rank.verdict.failed]
    if failed or broken:
        judged = sum(line.verdict.judged for _, line in one.lines) + len(one.ranks)
        texts = [line.text for line in failed] + [rank.text for rank in broken]
        count = f"{len(texts)} of {judged} checks failed."
        return "No", Mark.BAD, " ".join((*_commonest(texts), count))
    found = [run for run in one.located if run.facts.get("exit_code") == 1]
    if found:
        return "No", Mark.BAD, f"{_capital(found[0].verdict)}."
    lost = [run for run in one.gates if _gate_verdict(run) is GateVerdict.FAIL]
    if lost:
        score, *causes = _reasons(lost[0]) or ["The gate failed."]
        return "No", Mark.BAD, " ".join((*causes[:1], score))
    unsure = [run for run in _runs_of(one) if _not_known(run)]
    if unsure:
        return "Not known", Mark.IDLE, f"{unsure[0].verdict}."
    reached = [f"{level.level} {level.name}" for level in levels if _reached(level)]
    if not reached:
        reason = one.facts.get("unavailable")
        return "Not known", Mark.IDLE, f"Nothing was judged: {reason or 'nothing ran'}."
    where = ", ".join(reached)
    execution = one.facts.get("execution")
    if execution in _ELSEWHERE:
        word = "Yes, but only emulated" if execution == "emulated" else "Unexecuted"
        return word, Mark.NOTE, f"Everything judged held, at {where}."
    if execution is None:
        word = "Yes, but where it ran is not recorded"
        return word, Mark.NOTE, f"Everything judged held, at {where}."
    if any(level.mark is Mark.NOTE for level in levels):
        reason = f"Held at {where}, but for known failures."
        return "With known failures", Mark.NOTE, reason
    return "Yes, as far as judged", Mark.GOOD, f"Everything judged held, at {where}."


def _commonest(texts: Sequence[str]) -> list[str]:
    """The two explanations that most failures have, one sentence each."""
    # What is said behind the first semicolon is about other tensors.
    reasons = Counter(explanation(text).partition("; ")[0] for text in texts)
    found = reasons.most_common(2)
    return [
        f"{_capital(why)} ({n} check{'s' * (n != 1)})."
        for why, n in found
        if why and n * 3 > found[0][1]
    ]


def _capital(words: str) -> str:
    """As a sentence begins, unless a name such as fc1_bias begins it."""
    first = words.partition(" ")[0]
    return f"{words[:1].upper()}{words[1:]}" if first.isalpha() else words


def _reached(level: LevelResult) -> bool:
    return level.mark not in (Mark.IDLE, Mark.PLAIN)


def _not_known(run: RunData) -> bool:
    return bool(
        re.match("(?i)invalid|inconclusive|did not end", run.verdict)
    ) and not run.verdict.startswith("INVALID none of the checks of")


def _runs_of(one: Judged) -> list[RunData]:
    seen = [run for run, _ in one.lines] + [run for run, _, _ in one.ranks]
    return list({id(run): run for run in (*seen, *one.gates, *one.located)}.values())


def _level(one: Judged, level: str, name: str) -> LevelResult:
    verdicts = [line.verdict for _, line in one.lines if line.level == level]
    if level == "L1":
        verdicts += [rank.verdict for _, _, rank in one.ranks]
    failed = sum(verdict.failed for verdict in verdicts)
    good = sum(verdict.judged and not verdict.failed for verdict in verdicts)
    known = sum(verdict is Verdict.EXPECTED_FAILURE for verdict in verdicts)
    said, mark = f"ok {good}", Mark.GOOD
    if failed:
        said, mark = f"FAIL {failed} of {failed + good}", Mark.BAD
    elif known:
        said, mark = f"ok {good}, known failures {known}", Mark.NOTE
    elif not good:
        said, mark = "not run", Mark.IDLE
    return LevelResult(level=level, name=name, said=said, mark=mark)


def _task_level(gates: Sequence[RunData]) -> LevelResult:
    said, mark = "not run", Mark.IDLE
    marks = {
        GateVerdict.PASS: Mark.GOOD,
        GateVerdict.FAIL: Mark.BAD,
        GateVerdict.INVALID: Mark.IDLE,
        GateVerdict.INCONCLUSIVE: Mark.IDLE,
    }
    verdicts = [_gate_verdict(run) for run in gates]
    for verdict in (GateVerdict.PASS, *marks):
        if verdict in verdicts and mark is not Mark.BAD:
            run = next(run for run in gates if _gate_verdict(run) is verdict)
            counted = [one for gate in gate_runs([run]) for one in gate.right]
            said = f"{str(verdict).upper()} {sum(counted)} of {len(counted)}"
            mark = marks[verdict]
    return LevelResult(level=_TASK, name="task", said=said, mark=mark)


def _gate_verdict(run: RunData) -> GateVerdict:
    try:
        return GateVerdict(str(run.facts.get("verdict")))
    except ValueError:
        return GateVerdict.INCONCLUSIVE


def _reasons(run: RunData) -> list[str]:
    found = run.facts.get("reasons")
    if not isinstance(found, list):
        return []
    return [f"{_capital(str(reason))}." for reason in found]


def _facts(one: Judged) -> tuple[tuple[str, str], ...]:
    facts = one.facts
    run, options = one.run.facts, one.run.options
    experts = (part for _, line in one.lines for part in line.reached)
    versions = run.get("versions")
    versions = versions if isinstance(versions, dict) else {}
    digest = facts.get("file_sha256") or options.get("candidate_file")
    found = (
        ("arithmetic class", facts.get("arithmetic")),
        ("execution", facts.get("execution")),
        ("layout", facts.get("layout") or ("its own" if facts else None)),
        ("device", facts.get("device") or run.get("device")),
        ("experts reached", all_reached(experts) or None),
        ("from", facts.get("spec") or options.get("candidate")),
        ("file sha256", digest and str(digest)[:12]),
        ("mxmoe", versions.get("mxmoe-conformance")),
        ("torch", versions.get("torch")),
    )
    return tuple((name, str(value)) for name, value in found if value is not None)


def _caveats(one: Judged, levels: Sequence[LevelResult]) -> tuple[str, ...]:
    """What the answer does not say, and how to find it out."""
    found = []
    execution = one.facts.get("execution")
    if execution in _ELSEWHERE:
        found.append(f"Its numbers are {_ELSEWHERE[execution]}.")
    found += [
        f"The run {run.folder} did not end: what it had not judged yet is missing."
        for run in _runs_of(one)
        if run.facts.get("verdict") is None
    ]
    away: dict[str, list[str]] = {}
    for level in levels:
        if not _reached(level):
            command = ""
            if one.spec is not None:
                command = f" To judge it: {_COMMANDS[level.level]} {one.spec}"
            away.setdefault(command, []).append(f"{level.level} {level.name}")
    for command, names in away.items():
        found.append(f"Not judged: {', '.join(names)}.{command}")
    notes = {
        note
        for _, line in one.lines
        for note in line.notes
        if line.verdict is Verdict.QUALITY_NOTE
    }
    found += [f"Quality note: {note}." for note in sorted(notes)]
    return tuple(found)
