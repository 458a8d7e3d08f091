"""Drives git's bisection: both ends first, the culprit against its parents last.

If one of those is another than it was, it is flaky: it is skipped, and the search is
made again from what the other commits were judged to be.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path

from mxmoe.conformance.suite.whole_lines import append_line
from mxmoe.conformance.suite.whole_lines import cut_torn_line
from mxmoe.conformance.suite.whole_lines import whole_lines
from mxmoe.evals.bisect.command import run_command
from mxmoe.evals.bisect.git import Git
from mxmoe.evals.bisect.history import Commit
from mxmoe.evals.bisect.history import History
from mxmoe.evals.bisect.history import Standing
from mxmoe.evals.bisect.history import describe
from mxmoe.evals.bisect.history import parents
from mxmoe.evals.bisect.outcome import Judgement
from mxmoe.evals.bisect.outcome import Outcome
from mxmoe.evals.bisect.outcome import Result
from mxmoe.evals.bisect.step import BAD_END
from mxmoe.evals.bisect.step import BETWEEN
from mxmoe.evals.bisect.step import GOOD_END
from mxmoe.evals.bisect.step_code import Abort
from mxmoe.evals.bisect.step_code import StepCode
from mxmoe.evals.bisect.tree import drop_bytecode
from mxmoe.evals.bisect.under import Under
from mxmoe.evals.bisect.worktree import worktree
from mxmoe.reference.errors import BadInput

AGAIN = "again"
STEPS = "steps.jsonl"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """good, bad : full hashes. repo : any folder of the repository. stood : where the
    user stood. seconds : time limit of one step, None for none.
    """

    good: str
    bad: str
    repo: Path
    command: tuple[str, ...]
    stood: Path
    seconds: float | None = None
    first_parent: bool = False


@dataclass(frozen=True)
class Heard:
    """Hears of a bisection as it goes on; by default nobody listens."""

    before: Callable[[Commit, str, Standing | None], None] = lambda c, r, s: None
    after: Callable[[Judgement], None] = lambda judgement: None


@dataclass(eq=False, kw_only=True)
class _Drive:
    asked: Asked
    folder: Path
    tree: Path
    heard: Heard
    judgements: list[Judgement] = field(default_factory=list)
    distrusted: set[str] = field(default_factory=set)

    def judge(self, commit: str, role: str, standing: Standing | None) -> Judgement:
        """What the command says of the commit that the tree is at.

        What this run or an earlier one of this folder found out is not asked again, but
        at the end. A commit that contradicted itself there cannot be tested.
        """
        described = describe(Git(self.tree), commit)
        if role == BETWEEN and commit in self.distrusted:
            return _distrusted(described)
        for judgement in self.judgements:
            if judgement.role == role == BETWEEN and judgement.commit.hash == commit:
                return judgement
        self.heard.before(described, role, standing)
        known = None if role == AGAIN else _known(self.folder, described, role)
        judgement = known or self._ask(described, role)
        self.judgements.append(judgement)
        if known is None:
            _keep(self.folder, judgement)
        self.heard.after(judgement)
        return judgement

    def _ask(self, commit: Commit, role: str) -> Judgement:
        under = Under(
            folder=self.folder,
            role=BETWEEN if role == AGAIN else role,
            stood=self.asked.stood,
        )
        under.report.unlink(missing_ok=True)
        begun = time.perf_counter()
        try:
            code = run_command(
                self.asked.command,
                self.tree,
                self.folder / f"{commit.short}-{role}.log",
                environment=under.environment(),
                seconds=self.asked.seconds,
            )
        except Abort as error:
            raise Abort(f"{commit.short}: {_reported(under) or error}") from error
        found = _report(under)
        drop_bytecode(self.tree)
        return Judgement(
            commit=commit,
            role=role,
            code=code,
            seconds=time.perf_counter() - begun,
            found=found,
        )


def drive(asked: Asked, folder: Path, heard: Heard = Heard()) -> Outcome:
    """Find the first bad commit; `folder` keeps the steps, and is gone on with.

    The bisection happens in a working tree of its own, which is removed, whatever
    happens. Raises `BadInput` for commits between which git cannot bisect.
    """
    if asked.good == asked.bad:
        raise BadInput(
            f"GOOD, BAD: expected two commits, found {asked.good[:12]} twice"
        )
    cut_torn_line(folder / STEPS)
    with worktree(asked.repo, asked.bad) as tree:
        run = _Drive(asked=asked, folder=folder, tree=tree, heard=heard)
        history = History(tree)
        try:
            wrong = _verify_ends(run, history)
            if wrong is not None:
                return _outcome(run, Result.ENDS, wrong)
            while True:
                standing = _search(run, history)
                log = history.log()
                (folder / "bisect.log").write_text(log, encoding="utf-8")
                outcome = _conclude(run, history, standing, log)
                if outcome.result is not Result.UNCONFIRMED or not _distrust(run):
                    return outcome
        except Abort as error:
            return _outcome(run, Result.ABORTED, str(error))


def _verify_ends(run: _Drive, history: History) -> str | None:
    """What is wrong with the ends, or None."""
    bad = run.judge(run.asked.bad, BAD_END, None)
    wrong = []
    if bad.code is not StepCode.BAD:
        wrong.append(_of_end("bad", bad))
    history.go_to(run.asked.good)
    good = run.judge(run.asked.good, GOOD_END, None)
    if good.code is not StepCode.GOOD:
        wrong.append(_of_end("good", good))
    return "; ".join(wrong) or None


def _of_end(word: str, found: Judgement) -> str:
    reason = f" ({found.reason})" if found.reason else ""
    verb = (
        "cannot be tested" if found.code is StepCode.SKIP else f"is {found.code.word}"
    )
    return f"the {word} end {found.commit.short} {verb}{reason}"


def _search(run: _Drive, history: History) -> Standing:
    asked = run.asked
    standing = history.begin(asked.bad, asked.good, first_parent=asked.first_parent)
    while not standing.culprits:
        judgement = run.judge(standing.current, BETWEEN, standing)
        standing = history.mark(judgement.code)
    return standing


def _conclude(run: _Drive, history: History, standing: Standing, log: str) -> Outcome:
    git = Git(run.tree)
    culprits = tuple(describe(git, commit) for commit in standing.culprits)
    if len(culprits) > 1:
        said = f"{len(culprits)} commits, of which all but one cannot be tested"
        return _outcome(run, Result.AMBIGUOUS, said, culprits, log)
    culprit = culprits[0]
    try:
        differing = _judge_again(run, history, culprit)
    except Abort as error:
        return _outcome(run, Result.ABORTED, str(error), culprits, log)
    if differing:
        said = f"{culprit.short}, but judged again, {differing}"
        return _outcome(run, Result.UNCONFIRMED, said, culprits, log)
    said = f"{culprit.short} {culprit.subject}: it fails again, its parent passes again"
    return _outcome(run, Result.FOUND, said, culprits, log)


def _distrust(run: _Drive) -> bool:
    """Whether a commit that contradicted itself can be skipped in another search."""
    ends = (run.asked.good, run.asked.bad)
    before = {
        one.commit.hash: one.code for one in run.judgements if one.role == BETWEEN
    }
    flaky = {
        one.commit.hash
        for one in run.judgements
        if one.role == AGAIN and one.code is not before.get(one.commit.hash, one.code)
    }
    new = flaky - run.distrusted - set(ends)
    run.distrusted |= new
    return bool(new)


def _distrusted(commit: Commit) -> Judgement:
    reason = "flaky: it was judged otherwise before"
    return Judgement(
        commit=commit,
        role=BETWEEN,
        code=StepCode.SKIP,
        seconds=0.0,
        found={"reason": reason},
    )


def _judge_again(run: _Drive, history: History, culprit: Commit) -> str:
    """What of the culprit and its parents is not as it was; "" if all is."""
    wanted = [(culprit.hash, StepCode.BAD)]
    first_only = run.asked.first_parent
    found = parents(Git(run.tree), culprit.hash, first_only=first_only)
    wanted += [(parent, StepCode.GOOD) for parent in found]
    differing = []
    for commit, code in wanted:
        history.go_to(commit)
        judgement = run.judge(commit, AGAIN, None)
        if judgement.code is not code:
            what = "it" if commit == culprit.hash else f"its parent {commit[:12]}"
            differing.append(f"{what} {_verb(judgement.code)}")
    return " and ".join(differing)


def _verb(code: StepCode) -> str:
    return "cannot be tested" if code is StepCode.SKIP else f"is {code.word}"


def _outcome(
    run: _Drive,
    result: Result,
    said: str,
    culprits: tuple[Commit, ...] = (),
    log: str = "",
) -> Outcome:
    return Outcome(
        result=result,
        said=said,
        culprits=culprits,
        judgements=tuple(run.judgements),
        log=log,
    )


def _report(under: Under) -> dict[str, object]:
    try:
        found = json.loads(under.report.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _reported(under: Under) -> str:
    return str(_report(under).get("reason", ""))


def _keep(folder: Path, judgement: Judgement) -> None:
    append_line(folder / STEPS, judgement.as_json())


def _known(folder: Path, commit: Commit, role: str) -> Judgement | None:
    if not (folder / STEPS).exists():
        return None
    for where, text in whole_lines(folder / STEPS, "steps of a bisection"):
        try:
            found = json.loads(text)
            if (found["commit"]["hash"], found["role"]) == (commit.hash, role):
                return Judgement(
                    commit=commit,
                    role=role,
                    code=StepCode(found["code"]),
                    seconds=found["seconds"],
                    found=found["found"],
                    known=True,
                )
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(f"{where}: expected a step, found {error}") from error
    return None
