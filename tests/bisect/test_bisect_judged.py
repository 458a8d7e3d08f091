"""Good, bad or "cannot be tested" follows from the run directory alone."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from mxmoe.conformance.rundir import RunWriter
from mxmoe.conformance.rundir import VerdictLine
from mxmoe.conformance.verdict import Verdict
from mxmoe.evals.bisect.judged import judge_run
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

GOOD, BAD, SKIP = StepCode.GOOD, StepCode.BAD, StepCode.SKIP
BOUND = "out of bound: 30 of 32 elements (93.8 %); damage: "
NORMAL_END = Ended(code=0, seconds=600.0)


def line(verdict: Verdict, text: str = "", *, check: str = "test_a") -> VerdictLine:
    return VerdictLine(
        check=f"test_l3.py::{check}[mine]",
        candidate="mine",
        level="L3",
        verdict=verdict,
        reason="capability shapes: not e1" if not verdict.judged else "",
        text=text and f"mine · output · e1k1h32i32\n{text}",
    )


OURS = line(Verdict.MISMATCH, f"{BOUND}every token and column")
OTHER = line(Verdict.MISMATCH, f"{BOUND}a single element")
CRASHED = line(Verdict.CRASH, "forward raised RuntimeError: oops")
PASSED = line(Verdict.OK)
WANTED = (signature_of(OURS),)


def judged(
    folder: Path,
    *lines: VerdictLine,
    wanted: tuple[Signature, ...] | None = WANTED,
    ended: Ended = NORMAL_END,
    **facts: Any,
) -> Found:
    writer = RunWriter(folder / "run")
    writer.describe(**{FINISHED: True} | facts)
    for entry in lines:
        writer.verdict(entry)
    return judge_run(ended, folder / "run", wanted=wanted)


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ([PASSED], GOOD),
        ([OURS], BAD),
        ([PASSED, OURS], BAD),
        ([OTHER, OURS], BAD),
        ([OTHER], SKIP),
        ([CRASHED], SKIP),
        ([PASSED, OTHER], SKIP),
        ([line(Verdict.UNSUPPORTED)], SKIP),
        ([line(Verdict.NOT_RUN)], SKIP),
        ([], SKIP),
        # What shows the fault was not judged, whatever else passed.
        ([line(Verdict.NOT_RUN), line(Verdict.OK, check="test_b")], SKIP),
    ],
)
def test_verdict_lines_decide(
    tmp_path: Path, lines: list[VerdictLine], code: StepCode
) -> None:
    assert judged(tmp_path, *lines).code is code


@pytest.mark.parametrize("pytest_code", range(6))
def test_pytests_exit_code_is_not_asked(tmp_path: Path, pytest_code: int) -> None:
    facts = {"pytest_exit_code": pytest_code, "exit_code": pytest_code}
    assert judged(tmp_path / "a", PASSED, **facts).code is GOOD
    assert judged(tmp_path / "b", OURS, **facts).code is BAD


def test_without_a_wanted_fault_any_failure_is_bad(tmp_path: Path) -> None:
    assert judged(tmp_path, OTHER, wanted=None).code is BAD


def test_a_candidate_that_cannot_be_loaded_cannot_be_tested(tmp_path: Path) -> None:
    found = judged(tmp_path, wanted=None, **{REFUSED: "SyntaxError in x.py"})
    assert (found.code, found.reason) == (SKIP, "SyntaxError in x.py")


@pytest.mark.parametrize(
    "facts",
    [{BROKEN: "OSError: disk"}, {STRAYS: ["mine from /elsewhere/mine.py"]}],
)
def test_the_harness_itself_or_a_foreign_module_stops_the_search(
    tmp_path: Path, facts: dict[str, Any]
) -> None:
    with pytest.raises(Abort):
        judged(tmp_path, OURS, **facts)


@pytest.mark.parametrize(
    "raised", ["OutOfMemoryError: CUDA out of memory", "MemoryError: "]
)
def test_a_machine_out_of_memory_stops_the_search(tmp_path: Path, raised: str) -> None:
    failed = line(Verdict.CRASH, f"forward raised {raised}")
    with pytest.raises(Abort, match="the machine"):
        judged(tmp_path / "a", failed)
    # Unless that is the fault.
    wanted = (signature_of(failed),)
    assert judged(tmp_path / "b", failed, wanted=wanted).code is BAD


def unfinished(folder: Path, code: int | None, **options: Any) -> Found:
    RunWriter(folder / "run").describe(command="check")
    ended = Ended(code=code, seconds=5.0)
    return judge_run(ended, folder / "run", **{"wanted": WANTED} | options)


@pytest.mark.parametrize("code", [-signal.SIGSEGV, -signal.SIGABRT, 0, 3])
def test_a_process_that_the_candidate_ended_is_a_failure(
    tmp_path: Path, code: int
) -> None:
    assert unfinished(tmp_path / "a", code).code is SKIP
    died = unfinished(tmp_path / "b", code, wanted=None)
    assert died.code is BAD
    again = unfinished(tmp_path / "c", code, wanted=died.signatures)
    assert again.code is BAD


@pytest.mark.parametrize("code", [-signal.SIGKILL, -signal.SIGTERM, -signal.SIGHUP])
def test_a_process_that_was_killed_stops_the_search(tmp_path: Path, code: int) -> None:
    with pytest.raises(Abort, match="from outside"):
        unfinished(tmp_path, code)


def test_a_run_without_an_end_says_what_it_is_told_to(tmp_path: Path) -> None:
    assert unfinished(tmp_path / "a", None).code is SKIP
    assert unfinished(tmp_path / "b", None, on_timeout=BAD).code is BAD


def test_half_a_line_that_was_being_written_is_a_death_not_a_verdict(
    tmp_path: Path,
) -> None:
    RunWriter(tmp_path / "run").describe(**{FINISHED: True})
    (tmp_path / "run" / "verdicts.jsonl").write_text('{"check": "test_a', "utf-8")
    assert judge_run(NORMAL_END, tmp_path / "run", wanted=WANTED).code is SKIP
