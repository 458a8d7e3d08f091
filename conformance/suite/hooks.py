"""The hooks that the suite adds to pytest."""

from __future__ import annotations

from mxmoe.conformance.rundir import VerdictLine


def pytest_mxmoe_verdict(line: VerdictLine) -> None:
    """A check of a candidate has ended; called once for each, as they end."""
