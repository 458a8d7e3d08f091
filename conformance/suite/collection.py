"""How pytest collects our check files: as ``mxmoe.conformance...``, once, in order.

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

# The checks whose failure makes those of hot spots and state superfluous.
PLAIN_OUTPUT = (
    "test_layer_output_stays_within_the_bound",
    "test_output_stays_within_the_bound",
)
_LAWS = "test_l3_laws.py"


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


def put_in_order(items: list[pytest.Item]) -> None:
    """Our checks level by level, the plain output first and laws last in theirs.

    The first failure is read first: a wrong output says most of its cause, and a broken
    law least. Other tests stay in their places.
    """
    levels = {item: item.get_closest_marker("level") for item in items}
    ours = [(marker.args[0], item) for item, marker in levels.items() if marker]
    ours.sort(key=lambda place: (place[0], _turn(place[1])))
    in_order = iter(ours)
    items[:] = [next(in_order)[1] if levels[item] else item for item in items]


def _turn(item: pytest.Item) -> int:
    if isinstance(item, pytest.Function) and item.originalname in PLAIN_OUTPUT:
        return 0
    return 2 if item.path.name == _LAWS else 1
