"""One tox environment for every command: torch and triton are gigabytes.

tox recreates an environment folder when another environment name uses it. The
runner ``shared`` leaves the name out of that comparison; what is installed still
decides.
"""

from __future__ import annotations

from typing import Any

from tox.plugin import impl
from tox.tox_env.api import ToxEnv
from tox.tox_env.info import Info
from tox.tox_env.python.virtual_env.runner import VirtualEnvRunner
from tox.tox_env.register import ToxEnvRegister


class NamelessInfo(Info):
    """Remembers an environment without its name."""

    def compare(self, value: Any, section: str, sub_section: str | None = None) -> Any:
        """As `Info.compare`, with the name of the environment left out."""
        if section == ToxEnv.__name__:
            value = {**value, "name": "shared"}
        return super().compare(value, section, sub_section)


class SharedRunner(VirtualEnvRunner):
    """A virtual environment that several tox environments use."""

    @staticmethod
    def id() -> str:
        """The name of the runner in tox.ini."""
        return "shared"

    @property
    def cache(self) -> Info:
        """What tox remembers of the environment."""
        return NamelessInfo(self.env_dir)


@impl
def tox_register_tox_env(register: ToxEnvRegister) -> None:
    """Make the runner known."""
    register.add_run_env(SharedRunner)
