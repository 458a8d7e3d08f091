"""What `mxmoe bisect` tells the steps under it, and hears from them.

Through the environment, as a step is a command of its own: the folder where the lesson
and the runs are kept, which end a commit is, and where the user stood, as paths on the
command line are meant from there.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

FOLDER, ROLE, FROM = "MXMOE_BISECT", "MXMOE_BISECT_ROLE", "MXMOE_BISECT_FROM"


@dataclass(frozen=True, kw_only=True)
class Under:
    """folder : of the bisection. role : see `step`. stood : where the user stood."""

    folder: Path
    role: str
    stood: Path

    @property
    def lesson(self) -> Path:
        """What the ends taught."""
        return self.folder / "lesson.json"

    @property
    def runs(self) -> Path:
        """The run directories of the steps."""
        return self.folder / "steps"

    @property
    def report(self) -> Path:
        """What the last step says beside its exit code."""
        return self.folder / "step.json"

    def environment(self) -> dict[str, str]:
        """Variables for a step's command."""
        return {
            FOLDER: str(self.folder),
            ROLE: self.role,
            FROM: str(self.stood),
            "PYTHONDONTWRITEBYTECODE": "1",
            # The bisected tree is the current folder: nothing is imported from there
            # because of that.
            "PYTHONSAFEPATH": "1",
        }


def under_what() -> Under | None:
    """The bisection that this process is a step of, if `mxmoe bisect` began it."""
    if FOLDER not in os.environ:
        return None
    return Under(
        folder=Path(os.environ[FOLDER]),
        role=os.environ[ROLE],
        stood=Path(os.environ[FROM]),
    )
