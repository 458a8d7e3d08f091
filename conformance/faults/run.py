"""`mxmoe faults`: plant, judge, print the matrix, write the run directory."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.progress import MofNCompleteColumn
from rich.progress import Progress
from rich.progress import TextColumn
from rich.progress import TimeElapsedColumn

from mxmoe.conformance.cases.profiles import SECONDS_PER_CHECK
from mxmoe.conformance.escape import printable
from mxmoe.conformance.faults.catalogue import FAULTS
from mxmoe.conformance.faults.fault import Fault
from mxmoe.conformance.faults.fault import faults_in
from mxmoe.conformance.faults.kill import Kill
from mxmoe.conformance.faults.kill import kill
from mxmoe.conformance.faults.kill_mutants import kill_mutants
from mxmoe.conformance.faults.matrix import as_json
from mxmoe.conformance.faults.matrix import conclude_kills
from mxmoe.conformance.faults.matrix import print_matrix
from mxmoe.conformance.faults.mutants import PLAIN_SOURCE
from mxmoe.conformance.faults.mutants import Mutant
from mxmoe.conformance.faults.mutants import draw_mutants
from mxmoe.conformance.faults.mutants import source_of
from mxmoe.conformance.faults.survivors import conclude_mutants
from mxmoe.conformance.faults.survivors import print_mutants
from mxmoe.conformance.judging.trial import repeatable_settings
from mxmoe.conformance.registry import load_attribute
from mxmoe.conformance.registry import load_candidate
from mxmoe.conformance.rundir import describe_machine
from mxmoe.conformance.rundir import new_run_id
from mxmoe.conformance.rundir import open_run
from mxmoe.conformance.subject import Subject
from mxmoe.conformance.suite.check_run import PatientConsole
from mxmoe.conformance.suite.run_facts import candidate_facts
from mxmoe.conformance.suite.run_facts import now
from mxmoe.conformance.suite.session import shake_hands
from mxmoe.conformance.verdict import ExitCode
from mxmoe.conformance.watched import watched
from mxmoe.reference.errors import BadInput

# A table into a pipe is not broken: the longest check has 55 characters.
PIPE_WIDTH = 160


@dataclass(frozen=True, kw_only=True)
class FaultOptions:
    """What the user typed."""

    candidate: str | None = None
    faults: Sequence[str] = ()
    keyword: str = ""
    seeds: int = 1
    profile: str = "ci"
    full: bool = False
    mutants: int = 0
    seed: int = 0


def choose_faults(options: FaultOptions) -> list[Fault]:
    """Those asked for; `BadInput` if there is none."""
    named = [_named(word) for word in options.faults] or list(FAULTS.values())
    found = [fault for fault in named if options.keyword in fault.name]
    if not found:
        raise BadInput(
            f"-k: expected a part of a fault's name such as routing, "
            f"found {options.keyword!r}"
        )
    return found


def _named(word: str) -> Fault:
    if word in FAULTS:
        return FAULTS[word]
    if ":" not in word:
        raise BadInput(
            f"--fault: expected an installed fault or path/file.py:function, "
            f"found {word!r}"
        )
    [fault] = faults_in(load_attribute(word))
    return fault


def run_faults(
    options: FaultOptions, *, run_folder: Path | None = None, as_document: bool = False
) -> ExitCode:
    """Judge every chosen fault under every seed; `BadInput` before anything has run."""
    if options.profile not in SECONDS_PER_CHECK:
        raise BadInput(
            f"--profile: expected one of {', '.join(SECONDS_PER_CHECK)}, "
            f"found {options.profile!r}"
        )
    # What candidates print while they are loaded is not part of our document.
    with contextlib.redirect_stdout(sys.stderr):
        base = _base(options.candidate)
        plan = _mutants(base, options) if options.mutants else _faults(base, options)
    folder = run_folder or Path("runs") / new_run_id()
    writer = open_run(folder)
    writer.describe(
        command="faults",
        started=now(),
        **describe_machine(),
        candidates=[] if base is None else [candidate_facts(base)],
        options={
            "faults": list(options.faults),
            "keyword": options.keyword,
            "seeds": options.seeds,
            "profile": options.profile,
            "full": options.full,
            "mutants": options.mutants,
            "seed": options.seed,
        },
    )
    start, found = time.monotonic(), []
    with (folder / "faults.jsonl").open("a", encoding="utf-8") as file:
        for one in plan:
            found.append(one)
            file.write(json.dumps(as_json([one])[0]) + "\n")
            file.flush()
    conclude = conclude_mutants if options.mutants else conclude_kills
    code, line = conclude(found, time.monotonic() - start)
    writer.describe(finished=now(), exit_code=int(code), verdict=line)
    if as_document:
        document = {"verdict": line, "exit_code": int(code), "run": str(folder)}
        sys.stdout.write(json.dumps(document | {"faults": as_json(found)}) + "\n")
        return code
    console = PatientConsole(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    (print_mutants if options.mutants else print_matrix)(console, found)
    console.print(printable(f"run {folder}"), soft_wrap=True)
    console.print(printable(line), soft_wrap=True)
    return code


def _base(spec: str | None) -> Subject | None:
    if spec is None:
        return None
    base = load_candidate(spec)
    reason = base.unavailable()
    if reason is not None:
        raise BadInput(f"{spec}: expected a candidate that runs here: {reason}")
    shake_hands(base)
    return base


def _faults(base: Subject | None, options: FaultOptions) -> Iterator[Kill]:
    """A generator over every chosen fault and seed; `BadInput` before it is made."""
    return _judged(choose_faults(options), base, options)


def _judged(
    chosen: Sequence[Fault], base: Subject | None, options: FaultOptions
) -> Iterator[Kill]:
    with progress(len(chosen) * options.seeds) as step:
        for seed in range(options.seeds):
            with repeatable_settings(profile=options.profile, seed=seed) as settings:
                for fault in chosen:
                    step(fault.name)
                    with contextlib.redirect_stdout(sys.stderr):
                        one = kill(fault, base, settings, seed=seed, full=options.full)
                    yield one


def _mutants(base: Subject | None, options: FaultOptions) -> Iterator[Kill]:
    source = PLAIN_SOURCE if base is None else source_of(base.spec)
    drawn = list(draw_mutants(source, options.mutants, options.seed))
    return _judged_mutants(drawn, options)


def _judged_mutants(drawn: Sequence[Mutant], options: FaultOptions) -> Iterator[Kill]:
    with progress(len(drawn)) as step, contextlib.redirect_stdout(sys.stderr):
        found = kill_mutants(
            drawn, profile=options.profile, step=step, full=options.full
        )
    yield from found


class _Step:
    """Advances a bar on a terminal; says every fiftieth name into a pipe."""

    def __init__(self, bar: Progress, total: int) -> None:
        self.bar, self.total, self.done = bar, total, 0
        self.task = bar.add_task("faults", total=total)

    def __call__(self, name: str) -> None:
        self.bar.update(self.task, completed=self.done, description=printable(name))
        if self.bar.disable and self.done % 50 == 0:
            sys.stderr.write(f"{self.done} of {self.total}: {printable(name):.60}\n")
        self.done += 1


@contextlib.contextmanager
def progress(total: int) -> Iterator[_Step]:
    """A step function to call with the name of what comes next."""
    console = PatientConsole(file=sys.stderr, markup=False, highlight=False)
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not watched(console),
    )
    with bar:
        yield _Step(bar, total)
