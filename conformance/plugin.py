"""The pytest entry point: loaded in *every* pytest run on the machine.

So it imports nothing heavy and adds no option or marker of its own. It looks at the
command line, and only where the suite's own tests are asked for does it bring in
`suite.plugin`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent
NAMESPACE = "mxmoe."
SUITE = "mxmoe.conformance.suite.plugin"


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config, args: list[str]) -> None:
    """Bring the suite in if its tests are asked for."""
    if asks_for_the_suite(args, early_config):
        early_config.pluginmanager.import_plugin(SUITE)


def asks_for_the_suite(args: list[str], config: pytest.Config) -> bool:
    """Whether `args` name our tests, or the run stands in our checkout."""
    if _is_checkout(config.rootpath):
        return True
    invoked_from = config.invocation_params.dir
    for arg in args:
        if arg.startswith("-"):
            continue
        target = arg.split("::")[0].split("[")[0]
        if "--pyargs" in args and target.startswith((NAMESPACE, "mxmoe:")):
            return True
        path = Path(invoked_from, target).resolve()
        if path == PACKAGE or PACKAGE in path.parents:
            return True
    return False


def only_tests_of_mxmoe(config: pytest.Config) -> bool:
    """Whether all that is asked for lies in ``tests/``, where nothing is judged.

    Then no candidate is loaded: transformers alone takes seconds.
    """
    start, folder = config.invocation_params.dir, PACKAGE.parent / "tests"
    asked = [Path(start, arg.split("::")[0]).resolve() for arg in config.args]
    return all(folder in (path, *path.parents) for path in asked)


def _is_checkout(root: Path) -> bool:
    return root.resolve() == PACKAGE.parent and (root / "pyproject.toml").is_file()
