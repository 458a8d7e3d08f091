"""Whether anybody sees a bar that redraws itself."""

from __future__ import annotations

import os

from rich.console import Console

# Set by GitHub, GitLab, Travis and others, some of which lend a terminal as well.
_CI = "CI"


def watched(console: Console) -> bool:
    """On a terminal, unless ``CI`` is set: a log would keep every frame."""
    silent = os.environ.get(_CI, "").lower() not in ("", "0", "false")
    return console.is_terminal and not silent
