"""One commit: build it, judge it until it is settled, say what git should hear."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import replace
from pathlib import Path

from mxmoe.conformance.rundir import read_run
from mxmoe.evals.bisect.building import build
from mxmoe.evals.bisect.git import Git
from mxmoe.evals.bisect.half_way import below_half_way
from mxmoe.evals.bisect.half_way import check_ends_differ
from mxmoe.evals.bisect.judged import judge_run
from mxmoe.evals.bisect.lesson import Lesson
from mxmoe.evals.bisect.lesson import lesson_like
from mxmoe.evals.bisect.lesson import read_lesson
from mxmoe.evals.bisect.one_run import run_once
from mxmoe.evals.bisect.repeated import ask_repeatedly
from mxmoe.evals.bisect.request import Request
from mxmoe.evals.bisect.step_code import Abort
from mxmoe.evals.bisect.step_code import Found
from mxmoe.evals.bisect.step_code import Step
from mxmoe.evals.bisect.step_code import StepCode
from mxmoe.evals.bisect.tree import Tree
from mxmoe.evals.bisect.tree import check_harness_outside
from mxmoe.evals.bisect.tree import tree_at
from mxmoe.evals.bisect.worktree import worktree

BAD_END, GOOD_END, BETWEEN = "bad", "good", "between"
"""Roles of a commit: the ends teach what the others are compared with."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where steps are taken: run directories in `runs`, the lesson in `lesson`."""

    request: Request
    runs: Path
    lesson: Path

    def judge(self, folder: Path, role: str) -> Step:
        """Judge the commit that `folder` is at; the ends write the lesson.

        Raises `Abort` where nothing was learnt of the commit.
        """
        tree = tree_at(folder)
        check_harness_outside(tree)
        lesson = _completed(read_lesson(self.lesson), self.request)
        asked = replace(lesson, bad_right=None) if role != BETWEEN else lesson
        predicate = self.request.predicate(tree, folder, asked)
        if self.request.build is not None:
            log = self._next(tree).with_suffix(".build.log")
            seconds = self.request.build_seconds
            reason = build(self.request.build, tree.top, log, seconds=seconds)
            if reason is not None:
                return Step(code=StepCode.SKIP, reason=reason)
        last: list[Path] = []

        def ask() -> Found:
            run = self._next(tree)
            last.append(run)
            ended = run_once(
                predicate,
                tree,
                run,
                paths=self.request.paths,
                time_limit=self.request.seconds,
            )
            shutil.rmtree(run.with_name(f"{run.name}.cache"), ignore_errors=True)
            return judge_run(
                ended,
                run,
                wanted=lesson.signatures,
                on_timeout=self.request.on_timeout,
                foreign_is_right=self.request.build is not None,
            )

        step = ask_repeatedly(
            ask, repeat=self.request.repeat, disagree=self.request.disagree
        )
        if role == BETWEEN:
            return step
        return self._teach(role, lesson, step, last)

    def _next(self, tree: Tree) -> Path:
        """An unused run directory for a commit."""
        self.runs.mkdir(parents=True, exist_ok=True)
        number = 1
        while list(self.runs.glob(f"{tree.short}-{number}*")):
            number += 1
        return self.runs.resolve() / f"{tree.short}-{number}"

    def _teach(self, role: str, lesson: Lesson, step: Step, runs: list[Path]) -> Step:
        if self.request.score is not None and step.runs[-1].score is not None:
            lesson, step = self._measured(role, lesson, step, runs[-1])
        elif role == BAD_END and step.code is StepCode.BAD:
            shown = [
                run
                for run, found in zip(runs, step.runs, strict=True)
                if found.code is StepCode.BAD
            ]
            lesson = _learnt(lesson, step, shown[-1])
        lesson.write(self.lesson)
        return step

    def _measured(
        self, role: str, lesson: Lesson, step: Step, run: Path
    ) -> tuple[Lesson, Step]:
        right = tuple(read_run(run).run["score"]["right"])
        said = f"{len(right)} of {self.request.questions} correct"
        lesson = replace(lesson, asked=self.request.questions)
        if role == BAD_END:
            lesson = replace(lesson, bad_right=right, signatures=(below_half_way(),))
            return lesson, replace(step, code=StepCode.BAD, reason=said)
        # A bad end that died, or was not finite, has no score.
        lesson = replace(lesson, good_right=right, bad_right=lesson.bad_right or ())
        check_ends_differ(lesson)
        half = f"{said}; good from {lesson.least_correct} up"
        return lesson, replace(step, code=StepCode.GOOD, reason=half)


def _completed(lesson: Lesson, request: Request) -> Lesson:
    """What is known already, from the request if not from the bad end."""
    known = request.known()
    if known.signatures is None:
        return lesson
    case = lesson.case or known.case
    return replace(lesson, signatures=known.signatures, case=case)


def _learnt(lesson: Lesson, step: Step, run: Path) -> Lesson:
    bad = [found for found in step.runs if found.code is StepCode.BAD][-1]
    if lesson.signatures is not None:
        return lesson
    failed = [] if not (run / "run.json").exists() else read_run(run).verdicts
    if not any(line.verdict.failed for line in failed):
        return replace(lesson, signatures=bad.signatures)
    return replace(lesson_like(run), signatures=bad.signatures)


@contextmanager
def bench_of(request: Request, folder: Path, store: Path | None) -> Iterator[Bench]:
    """The bench for one step outside of `mxmoe bisect`; `store` keeps its runs.

    Inside of a `git bisect` that nobody gave the fault, the bad end is judged first, in
    a working tree of its own, and so is a good one for a score; the lesson stays in
    git's folder until the bisection has other ends or another request.
    """
    with tempfile.TemporaryDirectory(prefix="mxmoe-step-") as temporary:
        runs = Path(temporary) / "runs" if store is None else store
        lesson = Path(temporary) / "lesson.json"
        git = Git(folder)
        ends = _ends(git)
        if ends is None or (request.known().signatures and request.score is None):
            if request.score is not None:
                raise Abort(
                    "--score: expected a bisection with a bad and a good end, as "
                    "`git bisect start BAD GOOD` begins one; found none",
                    StepCode.USAGE,
                )
            yield Bench(request=request, runs=runs, lesson=lesson)
            return
        bad, good, began = ends
        key = hashlib.sha256(f"{began} {request}".encode()).hexdigest()[:12]
        kept = git.line("rev-parse", "--git-path", f"mxmoe-bisect-{key}.json")
        bench = Bench(request=request, runs=runs, lesson=folder / kept)
        if not bench.lesson.exists():
            _learn(bench, folder, bad, good)
        yield bench


def _learn(bench: Bench, folder: Path, bad: str, good: str) -> None:
    roles = [(bad, BAD_END)]
    if bench.request.score is not None:
        roles.append((good, GOOD_END))
    try:
        for commit, role in roles:
            with worktree(folder, commit) as tree:
                step = bench.judge(tree, role)
            if role == BAD_END and step.code is not StepCode.BAD:
                raise Abort(
                    f"the bad end {commit[:12]} does not show the fault: {step.reason}"
                )
    except BaseException:
        bench.lesson.unlink(missing_ok=True)
        raise


def _ends(git: Git) -> tuple[str, str, str] | None:
    """The bad commit, a good one, and where the bisection under way began."""
    terms = [
        git.run("bisect", "terms", f"--term-{term}").stdout.strip() or term
        for term in ("bad", "good")
    ]
    bad = git.run("rev-parse", "--verify", "--quiet", f"refs/bisect/{terms[0]}")
    good = git.run(
        "for-each-ref", "--format=%(objectname)", f"refs/bisect/{terms[1]}-*"
    )
    if bad.returncode != 0 or not good.stdout.strip():
        return None
    log = git.lines("bisect", "log")
    began = " ".join(line for line in log if line.startswith("git bisect start"))
    first = next((line for line in log if line.startswith(f"# {terms[0]}:")), "")
    return bad.stdout.strip(), good.stdout.split()[0], f"{began} {first}"
