"""Histories of a candidate: made in one call of git, each commit one file."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

FILE = "my_kernel.py"
SETTINGS = ("-c", "user.name=Test", "-c", "user.email=test@example.org")


@dataclass(frozen=True)
class Repo:
    """A repository whose branch main has `commits`, oldest first, checked out."""

    folder: Path
    commits: tuple[str, ...]

    def git(self, *arguments: str, check: bool = True) -> str:
        done = subprocess.run(
            ["git", *SETTINGS, *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=check,
        )
        return done.stdout + done.stderr

    def number(self, commit: str) -> int:
        return self.commits.index(commit)


MakeRepo = Callable[..., Repo]


@pytest.fixture
def make_repo(tmp_path: Path) -> MakeRepo:
    """A repository with one commit for each of the texts of `file`."""

    def make(texts: Sequence[str], *, file: str = FILE, subject: str = "") -> Repo:
        folder = tmp_path / "repo"
        subprocess.run(["git", "init", "-q", "-b", "main", folder], check=True)
        stream = "".join(
            _commit(number, text, file, subject) for number, text in enumerate(texts)
        )
        subprocess.run(
            ["git", "fast-import", "--quiet"],
            cwd=folder,
            input=stream.encode(),
            check=True,
        )
        repo = Repo(folder, ())
        repo.git("checkout", "-q", "main")
        commits = repo.git("rev-list", "--reverse", "main").split()
        return Repo(folder, tuple(commits))

    return make


def _commit(number: int, text: str, file: str, subject: str) -> str:
    said = f"Change {number}{subject}"
    when = f"{1_700_000_000 + number} +0000"
    return (
        "commit refs/heads/main\n"
        f"committer Test <test@example.org> {when}\n"
        f"data {len(said.encode())}\n{said}\n"
        f"M 100644 inline {file}\n"
        f"data {len(text.encode())}\n{text}\n"
    )
