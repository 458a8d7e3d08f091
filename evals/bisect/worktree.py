"""A working tree of one's own, so that the user's checkout stays as it is."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mxmoe.evals.bisect.git import Git


@contextlib.contextmanager
def worktree(repo: Path, commit: str) -> Iterator[Path]:
    """A new working tree of `repo` at `commit`, detached; gone at the end.

    Raises `BadInput` if git cannot make it.
    """
    git = Git(repo)
    parent = Path(tempfile.mkdtemp(prefix="mxmoe-bisect-")).resolve()
    folder = parent / "tree"
    try:
        git.text("worktree", "add", "--detach", "--quiet", str(folder), commit)
        yield folder
    finally:
        git.run("worktree", "remove", "--force", "--force", str(folder))
        shutil.rmtree(parent, ignore_errors=True)
