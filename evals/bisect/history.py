"""git's own bisection, in a working tree that is ours: git chooses the commits."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from mxmoe.evals.bisect.git import Git
from mxmoe.evals.bisect.step_code import Abort
from mxmoe.evals.bisect.step_code import StepCode
from mxmoe.evals.bisect.tree import drop_bytecode

_LEFT = re.compile(r"Bisecting: (\d+) revisions? left .*roughly (\d+) step")
_FOUND = re.compile(r"^# first bad commit: \[([0-9a-f]+)\]", re.MULTILINE)
_POSSIBLE = re.compile(r"^# possible first bad commit: \[([0-9a-f]+)\]", re.MULTILINE)
_WORDS = {StepCode.GOOD: "good", StepCode.BAD: "bad", StepCode.SKIP: "skip"}


@dataclass(frozen=True, kw_only=True)
class Commit:
    """One commit, for people. date : of the author, ISO 8601."""

    hash: str
    subject: str
    author: str
    date: str

    @property
    def short(self) -> str:
        """The hash, abbreviated."""
        return self.hash[:12]


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where a bisection is. left, steps : git's estimate of what is to be tested.

    culprits : empty while it goes on; one commit when it has ended; several if only
    commits that cannot be tested are left.
    """

    current: str
    left: int | None
    steps: int | None
    culprits: tuple[str, ...]


@dataclass(frozen=True)
class History:
    """A bisection in the working tree `folder`."""

    folder: Path

    def begin(self, bad: str, good: str, *, first_parent: bool) -> Standing:
        """Begin between two commits; `BadInput` or `Abort` with git's own words."""
        flags = ["--first-parent"] if first_parent else []
        self._clean()
        return self._after("start", *flags, bad, good)

    def mark(self, code: StepCode) -> Standing:
        """Tell git what the current commit is and move to the next."""
        self._clean()
        return self._after(_WORDS[code])

    def go_to(self, commit: str) -> None:
        """Check one commit out, whatever the tree looks like."""
        Git(self.folder).text("checkout", "--force", "--detach", "--quiet", commit)
        drop_bytecode(self.folder)

    def log(self) -> str:
        """What `git bisect replay` reads."""
        return Git(self.folder).run("bisect", "log").stdout

    def _clean(self) -> None:
        # A build may have changed files that git knows; a checkout would stop at them.
        Git(self.folder).text("reset", "--hard", "--quiet")

    def _after(self, *words: str) -> Standing:
        git = Git(self.folder)
        done = git.run("bisect", *words)
        log = self.log()
        found = _FOUND.findall(log) or _POSSIBLE.findall(log)
        if done.returncode != 0 and not found:
            said = " ".join((done.stdout + done.stderr).split())
            raise Abort(f"git bisect {words[0]}: {said}")
        drop_bytecode(self.folder)
        left = _LEFT.search(done.stdout)
        return Standing(
            current=git.line("rev-parse", "HEAD"),
            left=int(left[1]) if left else None,
            steps=int(left[2]) if left else None,
            culprits=tuple(dict.fromkeys(found)),
        )


def describe(git: Git, commit: str) -> Commit:
    """Subject, author and date of a commit."""
    shown = git.line("show", "-s", "--format=%s%x00%an <%ae>%x00%aI", commit)
    subject, author, date = shown.split("\0")
    return Commit(hash=commit, subject=subject, author=author, date=date)


def parents(git: Git, commit: str, *, first_only: bool) -> list[str]:
    """The parents of a commit."""
    found = git.line("rev-list", "--parents", "-n", "1", commit).split()[1:]
    return found[:1] if first_only else found
