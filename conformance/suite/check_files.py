"""The check files of the suite: every `test_*` module of `mxmoe.conformance.checks`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType

from mxmoe.conformance import checks


def check_modules() -> Iterator[ModuleType]:
    """Each check file, imported under its only name, in alphabetic order."""
    for found in pkgutil.iter_modules(checks.__path__, f"{checks.__name__}."):
        if found.name.rpartition(".")[2].startswith("test_"):
            yield importlib.import_module(found.name)
