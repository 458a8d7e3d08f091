"""From a run directory to good, bad or "cannot be tested": pytest's code is not asked.

In this order: the harness itself failed, or what ran was not the commit: stop. A
failure that is the fault we look for: bad. Another failure, or nothing judged: cannot
be tested. Everything asked was judged and is right: good.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path

from mxmoe.conformance.rundir import Run
from mxmoe.conformance.rundir import VerdictLine
from mxmoe.conformance.rundir import read_run
from mxmoe.conformance.verdict import Verdict
from mxmoe.evals.bisect.one_run import BROKEN
from mxmoe.evals.bisect.one_run import FINISHED
from mxmoe.evals.bisect.one_run import REFUSED
from mxmoe.evals.bisect.one_run import STRAYS
from mxmoe.evals.bisect.one_run import Ended
from mxmoe.evals.bisect.signature import Signature
from mxmoe.evals.bisect.signature import signature_of
from mxmoe.evals.bisect.step_code import Abort
from mxmoe.evals.bisect.step_code import Found
from mxmoe.evals.bisect.step_code import StepCode
from mxmoe.reference.errors import BadInput

# Signals by which a program ends itself. Others, like the kernel's SIGKILL to a
# process when memory runs out, come from outside.
_OWN_SIGNALS = (
    signal.SIGSEGV,
    signal.SIGABRT,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGTRAP,
)
# What exceptions and the CUDA runtime say of a machine, not of a kernel.
_MACHINE = (
    "OutOfMemoryError",
    "MemoryError",
    "No space left on device",
    "CUDA driver",
    "no CUDA-capable device",
    "CUDA unknown error",
)


def judge_run(
    ended: Ended,
    folder: Path,
    *,
    wanted: Sequence[Signature] | None,
    on_timeout: StepCode = StepCode.SKIP,
    foreign_is_right: bool = False,
) -> Found:
    """What the run in `folder` says of its commit.

    wanted : the fault that is looked for, one signature suffices; None: any failure.
    foreign_is_right : modules that stand in for the tree's are its own, installed.
    Raises `Abort` where it says nothing of the commit.
    """
    if ended.code is None:
        reason = f"did not end within {ended.seconds:g} s"
        return Found(code=on_timeout, reason=reason)
    if ended.code < 0 and -ended.code not in _OWN_SIGNALS:
        name = _signal_name(-ended.code)
        raise Abort(f"the judging process was ended from outside by {name}")
    run = _read(folder)
    if run is None or not run.run.get(FINISHED):
        return _compare([_died(ended)], wanted)
    _check_machinery(run, foreign_is_right)
    if run.run.get(REFUSED) and not run.verdicts:
        return Found(code=StepCode.SKIP, reason=str(run.run[REFUSED]))
    return _judge_lines(run, wanted)


def _read(folder: Path) -> Run | None:
    try:
        return read_run(folder)
    except BadInput:
        return None  # the process died before, or while, it wrote


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _died(ended: Ended) -> Signature:
    assert ended.code is not None
    how = _signal_name(-ended.code) if ended.code < 0 else f"exit code {ended.code}"
    return Signature(
        verdict=Verdict.CRASH,
        check="",
        subject="process",
        raised=f"the process died ({how})",
    )


def _check_machinery(run: Run, foreign_is_right: bool) -> None:
    if run.run.get(BROKEN):
        raise Abort(f"the harness failed: {run.run[BROKEN]}")
    found = run.run.get(STRAYS)
    if found and not foreign_is_right:
        raise Abort(
            "expected the candidate and what it imports to come from the bisected "
            f"tree, found {found[0]}"
        )


def _judge_lines(run: Run, wanted: Sequence[Signature] | None) -> Found:
    lines = run.verdicts
    failed = [line for line in lines if line.verdict.failed]
    if failed:
        found = _compare([signature_of(line) for line in failed], wanted)
        if found.code is not StepCode.BAD:
            _check_machine(failed)
        return _scored(run, found)
    if not lines:
        return Found(code=StepCode.SKIP, reason="no check of that name ran")
    if not any(line.verdict.judged for line in lines):
        reason = lines[0].reason
        return Found(code=StepCode.SKIP, reason=f"nothing was judged: {reason}")
    broken = [line for line in lines if line.reason.startswith("the suite itself")]
    if broken:
        return Found(code=StepCode.SKIP, reason=broken[0].reason)
    judged_checks = {signature_of(line).check for line in lines if line.verdict.judged}
    if wanted and all(s.check and s.check not in judged_checks for s in wanted):
        reason = f"{wanted[0].check} was not judged, which shows the fault"
        return Found(code=StepCode.SKIP, reason=reason)
    judged = sum(line.verdict.judged for line in lines)
    checks = "check" if judged == 1 else "checks"
    return _scored(run, Found(code=StepCode.GOOD, reason=f"{judged} {checks} passed"))


def _scored(run: Run, found: Found) -> Found:
    score = run.run.get("score")
    if not isinstance(score, dict):
        return found
    return Found(
        code=found.code,
        reason=f"{found.reason}; {score['correct']} of {score['answered']} correct",
        signatures=found.signatures,
        score=(int(score["correct"]), int(score["answered"])),
    )


def _check_machine(failed: Sequence[VerdictLine]) -> None:
    for line in failed:
        if line.verdict is Verdict.CRASH:
            for word in _MACHINE:
                if word in line.text:
                    raise Abort(f"the machine, not the commit: {line.text:.200}")


def _compare(found: list[Signature], wanted: Sequence[Signature] | None) -> Found:
    signatures = tuple(found)
    if wanted is None:
        return Found(
            code=StepCode.BAD, reason=str(signatures[0]), signatures=signatures
        )
    for signature in signatures:
        if any(signature.same_fault(other) for other in wanted):
            return Found(
                code=StepCode.BAD, reason=str(signature), signatures=signatures
            )
    return Found(
        code=StepCode.SKIP,
        reason=f"another failure: {signatures[0]}",
        signatures=signatures,
    )
