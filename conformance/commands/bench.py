"""``mxmoe bench``: a group of its own; its commands arrive as ``mxmoe.bench``."""

from __future__ import annotations

from mxmoe.conformance.commands.main import LazyCommands

bench = LazyCommands(
    "mxmoe.bench",
    name="bench",
    help="Benchmarks; ratios that are comparable are measured within one run.",
    no_args_is_help=True,
)
