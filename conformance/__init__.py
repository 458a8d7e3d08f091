"""The suite: it judges a candidate and says why.

Importing this package imports neither torch nor pytest, because the pytest plugin
inside it is loaded in every pytest run on the machine. Public names arrive on
first use:

>>> from mxmoe.conformance import Case, load_candidate
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "Candidate": "candidate",
    "Capabilities": "candidate",
    "Case": "cases.case",
    "ExitCode": "verdict",
    "Failure": "verdict",
    "Subject": "subject",
    "Verdict": "verdict",
    "load_candidate": "registry",
    "read_run": "rundir",
}

__all__ = sorted(_HOME)  # noqa: PLE0605 (a list of str)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
