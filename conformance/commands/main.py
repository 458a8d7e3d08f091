"""``mxmoe``: finds its commands in entry points and loads the one that is called."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import metadata
from typing import Any

import typer
from typer.core import TyperGroup

from mxmoe.conformance.escape import printable
from mxmoe.conformance.verdict import ExitCode
from mxmoe.reference.errors import BadInput

GROUP = "mxmoe.commands"
# By what a user comes for; a command that is not named here stands last.
_SECTIONS = {
    "Judge a kernel": ("check", "verify", "gate", "teacher-forced"),
    "Find what is wrong, where and since when": (
        *("replay", "locate", "bisect", "bisect-step", "compare", "history"),
    ),
    "Show it": ("report",),
    "Time it": ("bench", "serve-bench"),
    "Judge the suite": ("faults", "peers"),
}
_HELP = (
    "Conformance and accuracy of MXFP4 mixture-of-experts kernels.\n\n"
    "Exit codes: 0 pass, 1 fail, 2 usage or bad input, 3 invalid (nothing was judged, "
    "or the machinery failed), 4 inconclusive."
)
_START = (
    "To begin: mxmoe check --candidate my_kernel.py:candidate. "
    "`mxmoe COMMAND --help` has the rest."
)


class LazyCommands(TyperGroup):
    """A group whose commands are entry points, imported when they are needed.

    An entry point names a function, or a `LazyCommands` that becomes a subgroup.
    sections : heading -> commands below it, in the help.
    """

    def __init__(
        self,
        entry_group: str,
        sections: Mapping[str, Sequence[str]] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(rich_markup_mode=None, **options)
        self.entry_group = entry_group
        self.sections = sections or {}

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

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that `args` begins with; a near name is suggested."""
        near = get_close_matches(args[0], self.list_commands(ctx), n=1)
        if near and args[0] not in self.list_commands(ctx):
            ctx.fail(f"No such command {args[0]!r}. Did you mean {near[0]!r}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The commands under their headings, with one sentence each."""
        installed = self.list_commands(ctx)
        named = {name for names in self.sections.values() for name in names}
        rest = [name for name in installed if name not in named]
        others = "More" if self.sections else "Commands"
        for title, names in (*self.sections.items(), (others, rest)):
            rows = [(n, self._sentence(ctx, n)) for n in names if n in installed]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def _sentence(self, ctx: Any, name: str) -> str:
        return str(self.get_command(ctx, name).get_short_help_str(limit=200))


def main(args: list[str] | None = None) -> None:
    """Run one command and exit with an `ExitCode`."""
    LazyCommands(
        GROUP,
        _SECTIONS,
        name="mxmoe",
        help=_HELP,
        epilog=_START,
        no_args_is_help=True,
    ).main(args, prog_name="mxmoe")


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
