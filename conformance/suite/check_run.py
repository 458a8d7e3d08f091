"""A run of the suite from the command line: pytest inside, our words outside."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import pytest
from rich.console import Console
from rich.progress import MofNCompleteColumn
from rich.progress import Progress
from rich.progress import TaskID
from rich.progress import TextColumn
from rich.progress import TimeElapsedColumn

from mxmoe.conformance.cases.profiles import SECONDS_PER_CHECK
from mxmoe.conformance.escape import printable
from mxmoe.conformance.plugin import PACKAGE
from mxmoe.conformance.rundir import VerdictLine
from mxmoe.conformance.rundir import new_run_id
from mxmoe.conformance.rundir import open_run
from mxmoe.conformance.suite.reporting import find_reports
from mxmoe.conformance.suite.run_facts import now
from mxmoe.conformance.suite.run_facts import session_facts
from mxmoe.conformance.suite.session import Options
from mxmoe.conformance.suite.session import open_session
from mxmoe.conformance.suite.summary import Conclusion
from mxmoe.conformance.suite.summary import conclude
from mxmoe.conformance.suite.summary import print_summary
from mxmoe.conformance.verdict import ExitCode
from mxmoe.conformance.watched import watched
from mxmoe.reference.errors import BadInput


def run_check(
    options: Options,
    *,
    marker: str = "",
    keyword: str = "",
    most_failures: int | None = None,
    run_folder: Path | None = None,
    report_folder: Path | None = None,
    as_json: bool = False,
) -> ExitCode:
    """Judge, print, write the run directory; `BadInput` before anything has run.

    most_failures : after so many the run stops; None to go on to its end.
    """
    if options.profile not in SECONDS_PER_CHECK:
        raise BadInput(
            f"--profile: expected one of {', '.join(SECONDS_PER_CHECK)}, "
            f"found {options.profile!r}"
        )
    reports = [] if report_folder is None else find_reports()
    # What candidates print while they are loaded is not part of our document.
    with contextlib.redirect_stdout(sys.stderr):
        session = open_session(options)
    try:
        folder = run_folder or Path("runs") / new_run_id()
        writer = open_run(folder)
        session = replace(session, settings=replace(session.settings, run=writer))
        asked = {"marker": marker, "keyword": keyword, "profile": options.profile}
        writer.describe(**session_facts(session, command="check", **asked))
        console = PatientConsole(
            file=sys.stderr if as_json else sys.stdout,
            markup=False,
            emoji=False,
            highlight=False,
            soft_wrap=True,
        )
        reporter = Reporter(console, folder)
        arguments = _pytest_arguments(options, marker, keyword)
        if most_failures is not None:
            arguments.append(f"--maxfail={most_failures}")
        code = pytest.main(arguments, plugins=[session, reporter])
        if code == pytest.ExitCode.USAGE_ERROR:
            if session.expected is not None and session.expected.refusal is not None:
                raise session.expected.refusal
            raise BadInput(
                "-m, -k: expected an expression of markers or names, "
                f"found {marker or keyword!r} (see {folder / 'pytest.log'})"
            )
        left = reporter.collected - len(reporter.lines)
        conclusion = conclude(session, reporter.lines, int(code), folder, left=left)
        writer.describe(
            finished=now(),
            exit_code=int(conclusion.exit_code),
            verdict=conclusion.line,
        )
    finally:
        session.close()
    if as_json:
        _print_json(conclusion, folder, sys.stdout)
    else:
        print_summary(console, session, conclusion, folder)
    for write in reports:
        assert report_folder is not None
        page = write([folder], report_folder)
        console.print(printable(f"report {page}"))
    return conclusion.exit_code


class PatientConsole(Console):
    """Goes on silently when its reader is gone (``| head``): the verdict counts."""

    def on_broken_pipe(self) -> None:
        """Print no more; the standard stream leads nowhere from now on."""
        self.quiet = True
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


@dataclass(eq=False)
class Reporter:
    """A pytest plugin: prints failures as they come; pytest's own words go to a log."""

    console: Console
    folder: Path
    lines: list[VerdictLine] = field(default_factory=list)
    collected: int = 0
    _progress: Progress | None = None
    _task: TaskID | None = None
    _log: TextIO | None = None

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        self._log = (self.folder / "pytest.log").open("w", encoding="utf-8")
        manager = config.pluginmanager
        manager.unregister(name="terminalreporter")
        quiet = pytest.TerminalReporter(config, file=self._log)
        manager.register(quiet, "terminalreporter")

    def pytest_unconfigure(self) -> None:
        if self._log is not None:
            self._log.close()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.collected = len(session.items)
        if not watched(self.console):
            return
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
        )
        self._task = self._progress.add_task("checks", total=len(session.items))
        self._progress.start()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        if self._progress is not None and self._task is not None:
            name = printable(nodeid.rpartition("::")[2])
            self._progress.update(self._task, description=name[:60])

    def pytest_runtest_logfinish(self) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task)

    def pytest_mxmoe_verdict(self, line: VerdictLine) -> None:
        self.lines.append(line)
        if line.verdict.failed:
            text = f"FAILED {line.check.partition('::')[2]}\n{line.text}\n"
            self.console.print(printable(text))

    def pytest_sessionfinish(self) -> None:
        if self._progress is not None:
            self._progress.stop()


def _pytest_arguments(options: Options, marker: str, keyword: str) -> list[str]:
    # Nothing of the folder that the user happens to stand in: no ini, no conftest.
    arguments = ["--pyargs", "mxmoe.conformance.checks", "-c", os.devnull]
    arguments += [f"--rootdir={PACKAGE}", "--noconftest", "-p", "no:cacheprovider"]
    arguments += ["--strict-markers", f"--hypothesis-profile={options.profile}"]
    if marker:
        arguments += ["-m", marker]
    if keyword:
        arguments += ["-k", keyword]
    return arguments


def _print_json(conclusion: Conclusion, folder: Path, out: TextIO) -> None:
    document = {
        "verdict": conclusion.line,
        "exit_code": int(conclusion.exit_code),
        "run": str(folder),
        "candidates": conclusion.as_json(),
    }
    print(json.dumps(document), file=out)
