"""Text from names, candidates and exceptions reaches no terminal as it is."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from mxmoe.conformance import read_run
from mxmoe.conformance.faults.plain import PLAIN
from mxmoe.conformance.faults.plain import changed
from mxmoe.conformance.faults.plain import subject_of
from mxmoe.conformance.judging.trial import repeatable_settings
from mxmoe.conformance.rundir import VerdictLine
from mxmoe.conformance.settings import Settings
from mxmoe.conformance.suite.session import Session
from mxmoe.conformance.suite.summary import conclude
from mxmoe.conformance.suite.summary import print_summary
from mxmoe.conformance.verdict import ExitCode
from mxmoe.conformance.verdict import Verdict

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e"


@pytest.fixture(scope="module")
def settings() -> Iterator[Settings]:
    with repeatable_settings(layers=(0,)) as found:
        yield found


def test_the_summary_puts_no_escape_code_on_a_terminal(settings: Settings) -> None:
    name = f"mine{EVIL}"
    subject = subject_of(changed(PLAIN, name=name))
    mine = Session(subjects=(subject,), settings=settings, requested=True)
    told = {"check": "x::y", "candidate": name, "level": "L3", "reason": EVIL}
    lines = [
        VerdictLine(**told, verdict=Verdict.QUALITY_NOTE, notes=(EVIL, "[b]x")),
        VerdictLine(**told, verdict=Verdict.UNSUPPORTED),
        VerdictLine(**told, verdict=Verdict.NOT_RUN),
    ]
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, color_system=None, markup=False)
    print_summary(
        console, mine, conclude(mine, lines, 0, Path(f"runs{EVIL}")), Path(EVIL)
    )
    assert not set(out.getvalue()) & {"\x1b", "\x07", "\x9b", "\u202e"}
    assert "[b]x" in out.getvalue()
    assert "\\x1b]0;owned" in out.getvalue()


RAISING = """
from mxmoe.conformance.faults.plain import PLAIN, changed
def forward(prepared, hidden_states, routing):
    if len(hidden_states) != 4:
        raise RuntimeError("\\x1b]0;owned\\x07")
    return PLAIN.forward(prepared, hidden_states, routing)
candidate = changed(PLAIN, name="mine", forward=forward)
"""


@pytest.mark.parametrize("how", ["mxmoe", "pytest"])
def test_exception_texts_reach_no_terminal_raw(how: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(RAISING)
    chosen = ["--candidate", f"{path}:candidate", "-k", "zero_tokens"]
    chosen += ["--run-dir", str(tmp_path / "run")]
    command = ["-m", "pytest", "--pyargs", "mxmoe.conformance.checks", "-c", os.devnull]
    command += [*chosen, "-p", "no:cacheprovider", "-rA"]
    if how == "mxmoe":
        start = "from mxmoe.conformance.commands.main import main; main()"
        command = ["-c", start, "check", *chosen]
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, cwd=tmp_path, check=False
    )
    assert done.returncode == ExitCode.FAIL
    assert b"\\x1b]0;owned\\x07" in done.stdout
    assert b"\x1b" not in done.stdout + done.stderr
    [line] = read_run(tmp_path / "run").verdicts
    assert line.verdict is Verdict.CRASH
    assert "\x1b]0;owned" in line.text


def test_a_name_that_a_terminal_would_obey_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(RAISING.replace('name="mine"', 'name="x\\nverdict: PASS"'))
    start = "from mxmoe.conformance.commands.main import main; main()"
    command = [sys.executable, "-c", start, "check", "-c", f"{path}:candidate"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == ExitCode.USAGE
    assert done.stderr.count("\n") == 1
    assert "name: expected 1 to 80 printable characters" in done.stderr
