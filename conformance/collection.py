"""How pytest collects our check files: as ``mxmoe.conformance...``, once.

pytest would name a file after its place in the checkout (``conformance.checks...``)
and import a second copy of it and of every class in its package. Here the test
module is the very module that the package has.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

from mxmoe.conformance.plugin import PACKAGE


class SuiteModule(pytest.Module):
    """A check file, imported under its only name."""

    def _getobj(self) -> ModuleType:
        relative = self.path.relative_to(PACKAGE).with_suffix("")
        return importlib.import_module(".".join(("mxmoe.conformance", *relative.parts)))


def pytest_pycollect_makemodule(
    module_path: Path, parent: pytest.Collector
) -> SuiteModule | None:
    if PACKAGE in module_path.parents:
        return SuiteModule.from_parent(parent, path=module_path)
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_collect_directory(path: Path, parent: pytest.Collector) -> pytest.Dir | None:
    # As plain folders: a package collector imports __init__.py a second time.
    if path == PACKAGE or PACKAGE in path.parents:
        return pytest.Dir.from_parent(parent, path=path)
    return None
