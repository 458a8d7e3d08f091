"""The bisected tree: where it is, and that it and nothing else is tested.

The harness must stay outside: a suite that changes with the commit judges each by
another rule. And what is judged must come from inside: an installed copy of the
candidate's package is the same at every commit.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import mxmoe.conformance
from mxmoe.evals.bisect.git import Git
from mxmoe.evals.bisect.step_code import Abort
from mxmoe.evals.bisect.step_code import StepCode

_HARNESS = ("mxmoe.reference", "mxmoe.conformance", "mxmoe.evals")
# Below these a tree may keep its packages.
_PACKAGE_FOLDERS = ("", "src", "python", "lib")


@dataclass(frozen=True, kw_only=True)
class Tree:
    """top : of the working tree. others : other working trees of the repository."""

    top: Path
    commit: str
    others: tuple[Path, ...]

    @property
    def short(self) -> str:
        """The commit, abbreviated."""
        return self.commit[:12]


def tree_at(folder: Path) -> Tree:
    """The tree that `folder` is in; `BadInput` if git knows none."""
    git = Git(folder)
    top = Path(git.line("rev-parse", "--show-toplevel")).resolve()
    listed = git.lines("worktree", "list", "--porcelain")
    every = [
        Path(x.partition(" ")[2]).resolve() for x in listed if x[:9] == "worktree "
    ]
    return Tree(
        top=top,
        commit=git.line("rev-parse", "HEAD"),
        others=tuple(path for path in every if path != top),
    )


def check_harness_outside(tree: Tree) -> None:
    """Raise `Abort` if git tracks this very mxmoe in `tree`."""
    ours = Path(mxmoe.conformance.__file__).resolve()
    if ours.is_relative_to(tree.top) and Git(tree.top).succeeds(
        "ls-files", "--error-unmatch", str(ours)
    ):
        raise Abort(
            f"mxmoe itself comes from the bisected tree ({ours}): expected an "
            "installation outside of it, or `mxmoe bisect`, which bisects in a tree "
            "of its own",
            StepCode.USAGE,
        )


def spec_in_tree(spec: str, tree: Tree, cwd: Path) -> str:
    """`spec` with the path of its file in `tree`; others are returned as they are.

    A path in another working tree of the repository is taken for the same file here.
    Raises `Abort` for a file outside the repository.
    """
    location, colon, attribute = spec.partition(":")
    if not (location.endswith(".py") or "/" in location):
        return spec
    path = (cwd / location).resolve()
    for top in (tree.top, *sorted(tree.others, key=lambda p: -len(p.parts))):
        if path.is_relative_to(top):
            return f"{tree.top / path.relative_to(top)}{colon}{attribute}"
    raise Abort(
        f"--candidate: expected a file of the bisected tree {tree.top}, found {path}",
        StepCode.USAGE,
    )


def forget_other_commits(cache: Path) -> None:
    """Let nothing that was compiled for another commit be read, or left behind.

    A `.pyc` names its source by time in seconds and size, and two commits can have
    both in common. For this process and those that it starts; `cache` is an empty
    folder.
    """
    sys.dont_write_bytecode = True
    sys.pycache_prefix = str(cache / "pyc")
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    os.environ["TRITON_CACHE_DIR"] = str(cache / "triton")
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache / "inductor")


def drop_bytecode(top: Path) -> None:
    """Remove every `__pycache__` of a tree that is ours alone."""
    for folder in list(top.rglob("__pycache__")):
        shutil.rmtree(folder, ignore_errors=True)


def strays(tree: Tree, before: Iterable[str]) -> list[str]:
    """Modules imported since `before` that stand in for ones of the tree.

    They lie in another working tree of the repository, or have the name of a package
    of this tree and were found elsewhere. What mxmoe imports of itself is the harness.
    """
    found = []
    for name in sorted(set(sys.modules) - set(before)):
        file = getattr(sys.modules[name], "__file__", None)
        if file is None or name.startswith(_HARNESS):
            continue
        path = Path(file).resolve()
        if path.is_relative_to(tree.top) and not _installed(path):
            continue
        elsewhere = any(path.is_relative_to(top) for top in tree.others)
        if (elsewhere and not _installed(path)) or _has_package(tree, name):
            found.append(f"{name} from {path}")
    return found


def _installed(path: Path) -> bool:
    return "site-packages" in path.parts


def _has_package(tree: Tree, module: str) -> bool:
    name = module.partition(".")[0]
    return any(
        (tree.top / folder / name / "__init__.py").is_file()
        or (tree.top / folder / f"{name}.py").is_file()
        for folder in _PACKAGE_FOLDERS
    )
