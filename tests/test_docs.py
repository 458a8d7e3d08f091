"""The documents' examples, run as a reader would run them."""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
import sys
from pathlib import Path

LAYOUTS = (Path(__file__).parents[1] / "docs" / "layouts.md").read_text("utf-8")


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", LAYOUTS, flags=re.DOTALL)
    return str(found)


def test_the_chains_are_printed_as_shown() -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block("python"), "layouts.md", "exec"), {})
    assert printed.getvalue() == block("text")


def test_the_fault_of_the_pull_request_fails_as_shown(tmp_path: Path) -> None:
    command, shown = block("console").removeprefix("$ ").split("\n", 1)
    code = "from mxmoe.conformance.commands.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *command.split()[1:]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.startswith(shown)
