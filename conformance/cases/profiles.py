"""Hypothesis profiles, chosen by Hypothesis' own ``--hypothesis-profile``.

=========  ========  ===============  ====================================
name       examples  seconds a check  for
=========  ========  ===============  ====================================
dev        20        3                the edit-run loop
ci         100       5                verdicts: derandomised
gpu        50        30               a machine with an accelerator
nightly    2000      600              random, with the example database
=========  ========  ===============  ====================================

None has a deadline: compiling kernels would break it. A check stops drawing when
its seconds are spent and says how many examples it judged. More than two candidates in
one run share what two would take.
"""

from __future__ import annotations

from hypothesis import HealthCheck
from hypothesis import Phase
from hypothesis import Verbosity
from hypothesis import settings
from hypothesis.database import DirectoryBasedExampleDatabase

SECONDS_PER_CHECK = {"dev": 3.0, "ci": 5.0, "gpu": 30.0, "nightly": 600.0}
_EXAMPLES = {"dev": 20, "ci": 100, "gpu": 50, "nightly": 2000}
DEFAULT = "dev"

# How long a failing check looks for a smaller case. Shapes shrink in a few dozen calls.
SHRINK_SECONDS = 10.0


def seconds_per_check(profile: str, candidates: int) -> float:
    """How long a check of one candidate may draw; unknown profiles draw as `dev`."""
    seconds = SECONDS_PER_CHECK.get(profile, SECONDS_PER_CHECK[DEFAULT])
    return seconds * min(1.0, 2 / max(1, candidates))


def register_profiles() -> None:
    """Make the four profiles known to Hypothesis."""
    for name, examples in _EXAMPLES.items():
        settings.register_profile(
            name,
            max_examples=examples,
            # What is not named here is taken from the profile that is loaded now, and a
            # trial's does not shrink.
            phases=tuple(Phase),
            deadline=None,
            derandomize=name == "ci",
            database=DirectoryBasedExampleDatabase(".hypothesis/examples")
            if name == "nightly"
            else None,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
            verbosity=Verbosity.normal,
        )
