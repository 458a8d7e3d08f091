"""What `mxmoe bisect-step` was asked for, and the predicate that follows from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path

from mxmoe.conformance.bundles.bundle import read_bundle
from mxmoe.conformance.suite.session import Options
from mxmoe.evals.bisect.by_check import ByBundle
from mxmoe.evals.bisect.by_check import ByCheck
from mxmoe.evals.bisect.lesson import Lesson
from mxmoe.evals.bisect.lesson import lesson_like
from mxmoe.evals.bisect.lesson import lesson_of
from mxmoe.evals.bisect.one_run import Predicate
from mxmoe.evals.bisect.step_code import StepCode
from mxmoe.evals.bisect.tree import Tree
from mxmoe.evals.bisect.tree import spec_in_tree
from mxmoe.reference.errors import BadInput

ScorePredicate = Callable[[str, int | None], Predicate]
"""Of a candidate and the least number of correct answers (None: measure)."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One of `check`, `bundle` and `score` says what decides.

    candidate : in the bisected tree; a bundle names its own. like : a failed run or a
    bundle that shows the fault. build : a shell command that is run first.
    build_seconds, seconds : time limits. on_timeout : what a run that has no end says.
    repeat, disagree : see `repeated`. paths : see `run_once`. checkpoint, device,
    profile, case : as for `mxmoe check`. questions : of a score.
    """

    candidate: str | None
    check: str | None = None
    bundle: Path | None = None
    score: ScorePredicate | None = field(default=None, repr=False)
    like: Path | None = None
    case: str | None = None
    checkpoint: Path | None = None
    device: str | None = None
    profile: str = "ci"
    isolate: bool | None = None
    questions: int = 64
    build: str | None = None
    build_seconds: float = 3600.0
    seconds: float = 600.0
    on_timeout: StepCode = StepCode.SKIP
    repeat: int = 3
    disagree: str = "skip"
    paths: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        given = [
            name
            for name, value in (
                ("--check", self.check),
                ("--bundle", self.bundle),
                ("--score", self.score),
            )
            if value is not None
        ]
        if len(given) != 1:
            raise BadInput(
                "bisect-step: expected one of --check, --bundle and --score, found "
                f"{' and '.join(given) or 'none'}"
            )
        if self.candidate is None and self.bundle is None:
            raise BadInput("bisect-step: expected --candidate, found none")

    def known(self) -> Lesson:
        """The fault that the request itself names; an empty lesson if it does not."""
        if self.like is not None:
            return lesson_like(self.like)
        return Lesson() if self.bundle is None else lesson_of(read_bundle(self.bundle))

    def predicate(self, tree: Tree, cwd: Path, lesson: Lesson) -> Predicate:
        """What judges the commit that `tree` is at."""
        if self.bundle is not None:
            return self._by_bundle(self.bundle, tree, cwd)
        assert self.candidate is not None
        spec = spec_in_tree(self.candidate, tree, cwd)
        if self.score is not None:
            return self.score(spec, lesson.least_correct)
        assert self.check is not None
        options = Options(
            candidates=(spec,),
            checkpoint=self.checkpoint,
            case=self.case or lesson.case,
            device=self.device,
            profile=self.profile,
            isolate=self.isolate,
        )
        return ByCheck(options=options, keyword=self.check)

    def _by_bundle(self, folder: Path, tree: Tree, cwd: Path) -> Predicate:
        bundle = read_bundle(folder)
        spec = spec_in_tree(self.candidate or bundle.spec, tree, cwd)
        options = Options(
            candidates=(spec,),
            against=bundle.against,
            checkpoint=self.checkpoint,
            device=self.device or bundle.device,
            isolate=bundle.isolate if self.isolate is None else self.isolate,
        )
        return ByBundle(bundle=bundle, options=options)
