"""Imports that a judgement needs, made once, before the fork.

What a fork imports itself is compiled from source, as its bytecode cache is empty: see
`tree.forget_other_commits`. And each of several judgements would import it again.
"""

from __future__ import annotations

import gc
import importlib
from importlib import metadata

_LATE = (
    "_pytest.junitxml",
    "mxmoe.conformance.suite.plugin",
    "mxmoe.conformance.bundles.repetitions",
    "mxmoe.evals.bisect.by_check",
)


def import_what_a_judgement_needs() -> None:
    """Import pytest's plugins, the suite's."""
    for entry in metadata.entry_points(group="pytest11"):
        entry.load()
    for name in _LATE:
        importlib.import_module(name)
    # pytest collects garbage several times in each run: a third of a second for these.
    gc.freeze()
