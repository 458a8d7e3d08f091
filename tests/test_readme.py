"""The README's example and commands, run as a reader would run them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).resolve().parent.parent / "README.md").read_text("utf-8")
READING = (
    Path(__file__)
    .parents[1]
    .joinpath("docs", "reading-a-failure.md")
    .read_text("utf-8")
)
(EXAMPLE,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
CONSOLE = dict(
    re.findall(r"```console\n\$ ([^\n]+)\n(.*?)```", README, flags=re.DOTALL)
)
FAULT = "mxmoe check --candidate my_kernel.py:candidate -k test_output"
PLUG_IN = "mxmoe check --candidate my_kernel.py:candidate"

# The seed's fault: the bias in another row order than the weights.
RIGHT = "p[name][e] if"
WRONG = "(p[name][e].view(2, -1).T.flatten() if 'gate' in name else p[name][e]) if"


def mxmoe(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run one of the README's ``mxmoe`` commands in `folder`."""
    code = "from mxmoe.conformance.commands.main import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *command.split()[1:]],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def comparable(output: str) -> list[str]:
    """Without what differs from run to run: run ids, bundle ids, the worst ratio."""
    output = re.sub(r"runs/[0-9-]+", "runs/ID", output)
    output = re.sub(r"bundles/[0-9a-f]+", "bundles/ID", output)
    lines = [re.sub(r"\s+", " ", line).strip() for line in output.splitlines()]
    table = re.compile(r"^(\w+ \w+ (?:(?:-|not run|ok \d+|FAIL \d+ of \d+) ){5})\S+$")
    return [table.sub(r"\1", line).strip() for line in lines if line]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "my_kernel.py").write_text(EXAMPLE, encoding="utf-8")
    return tmp_path


def test_the_example_has_at_most_twenty_lines() -> None:
    assert len(EXAMPLE.splitlines()) <= 20
    assert "mxmoe" not in EXAMPLE


def test_the_example_passes_from_its_own_directory(folder: Path) -> None:
    """The README shows the default profile; `dev` draws fewer cases of the same."""
    done = mxmoe(f"{PLUG_IN} --profile dev", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert comparable(done.stdout) == comparable(CONSOLE[PLUG_IN])


def test_the_example_with_the_seed_fault_fails_as_shown(folder: Path) -> None:
    assert EXAMPLE.count(RIGHT) == 1
    faulty = EXAMPLE.replace(RIGHT, WRONG)
    (folder / "my_kernel.py").write_text(faulty, encoding="utf-8")
    done = mxmoe(FAULT, folder)
    assert done.returncode == 1, done.stdout + done.stderr
    assert comparable(done.stdout) == comparable(CONSOLE[FAULT])
    _replays_as_shown(folder)


def _replays_as_shown(folder: Path) -> None:
    """The commands of docs/reading-a-failure.md, on the bundle of that run."""
    [bundle] = folder.glob("runs/*/bundles/*")
    shown = re.findall(r"```console\n\$ ([^\n]+)\n(.*?)```", READING, flags=re.DOTALL)
    assert len(shown) == 2
    for code, (command, output) in zip((1, 0), shown, strict=True):
        command = re.sub(r"runs/\S+", str(bundle.relative_to(folder)), command)
        done = mxmoe(command, folder)
        assert done.returncode == code, done.stdout + done.stderr
        assert done.stdout == output


def test_a_failure_repeats_with_its_own_command(folder: Path) -> None:
    """The line that begins with `again` gives the same verdict."""
    faulty = EXAMPLE.replace(RIGHT, WRONG)
    (folder / "my_kernel.py").write_text(faulty, encoding="utf-8")
    (command,) = re.findall(r"^again  (.*)$", CONSOLE[FAULT], flags=re.MULTILINE)
    done = mxmoe(command, folder)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "why    behaves as if: gate_up_bias" in done.stdout
