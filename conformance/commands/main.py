"""``mxmoe``: finds its commands in entry points and loads the one that is called."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from importlib import metadata
from typing import Any

import typer
from typer.core import TyperGroup

from mxmoe.conformance.escape import printable
from mxmoe.conformance.verdict import ExitCode
from mxmoe.reference.errors import BadInput

GROUP = "mxmoe.commands"
_HELP = (
    "Conformance and accuracy of MXFP4 mixture-of-experts kernels.\n\n"
    "Exit codes: 0 pass, 1 fail, 2 usage or bad input, 3 invalid (nothing was judged, "
    "or the machinery failed), 4 inconclusive."
)


class LazyCommands(TyperGroup):
    """A group whose commands are entry points, imported when they are needed.

    An entry point names a function, or a `LazyCommands` that becomes a subgroup.
    """

    def __init__(self, entry_group: str, **options: Any) -> None:
        super().__init__(**options)
        self.entry_group = entry_group

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of all installed commands."""
        return sorted(ep.name for ep in metadata.entry_points(group=self.entry_group))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Load one command, or None."""
        for entry in metadata.entry_points(group=self.entry_group):
            if entry.name == cmd_name:
                loaded = entry.load()
                if isinstance(loaded, LazyCommands):
                    return loaded
                app = typer.Typer(add_completion=False, rich_markup_mode=None)
                # A command whose caller reads exit codes otherwise brings its class.
                kind = getattr(loaded, "command_class", None)
                app.command(cmd_name, cls=kind)(_exiting(loaded))
                return typer.main.get_command(app)
        return None


def main(args: list[str] | None = None) -> None:
    """Run one command and exit with an `ExitCode`."""
    LazyCommands(GROUP, name="mxmoe", help=_HELP, no_args_is_help=True).main(
        args, prog_name="mxmoe"
    )


def _exiting(command: Callable[..., ExitCode]) -> Callable[..., None]:
    """`command`, with its result as the exit code and bad input in one sentence."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            code = command(*arguments, **options)
        except BadInput as error:
            print(f"mxmoe: error: {printable(str(error))}", file=sys.stderr)
            code = ExitCode.USAGE
        except KeyboardInterrupt:
            print("mxmoe: interrupted", file=sys.stderr)
            code = ExitCode.INVALID
        raise typer.Exit(int(code))

    return run


if __name__ == "__main__":
    main()
