"""git, as a subprocess: in one folder, without hooks, advice or translation."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from mxmoe.conformance.escape import printable
from mxmoe.reference.errors import BadInput

# Which repository a git command is about is said by its folder, and by nothing that a
# hook or an outer git left in the environment.
_FOREIGN = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")
_SETTINGS = ("-c", f"core.hooksPath={os.devnull}", "-c", "advice.detachedHead=false")


@dataclass(frozen=True)
class Git:
    """git in `folder`."""

    folder: Path

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run and return whatever happened; `BadInput` if there is no git."""
        try:
            return subprocess.run(
                ["git", *_SETTINGS, *arguments],
                cwd=self.folder,
                env=clean_environment() | {"LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                # A Ctrl-C is for us: git would stop between two of its files.
                start_new_session=True,
            )
        except OSError as error:
            raise BadInput(f"git: expected it to run here, found {error}") from error

    def text(self, *arguments: str) -> str:
        """What it printed; `BadInput` with its last words if it failed."""
        done = self.run(*arguments)
        if done.returncode != 0:
            said = " ".join((done.stderr or done.stdout).split())
            raise BadInput(
                printable(f"git {arguments[0]}: expected it to succeed, found {said}")
            )
        return done.stdout

    def line(self, *arguments: str) -> str:
        """What it printed, without the line's end."""
        return self.text(*arguments).strip()

    def lines(self, *arguments: str) -> list[str]:
        """What it printed, line by line."""
        return self.text(*arguments).splitlines()

    def succeeds(self, *arguments: str) -> bool:
        """Whether it exits with 0."""
        return self.run(*arguments).returncode == 0

    def commit(self, name: str) -> str:
        """The full hash of the commit that `name` is; `BadInput` if it is none."""
        done = self.run("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
        if done.returncode != 0 or name.startswith("-"):
            raise BadInput(
                f"{name!r}: expected a commit of {self.folder}, found none of that name"
            )
        return done.stdout.strip()


def clean_environment() -> dict[str, str]:
    """This environment without what ties a git command to one repository."""
    return {name: v for name, v in os.environ.items() if name not in _FOREIGN}
