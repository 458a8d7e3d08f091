"""The help of every command says what it does and how it ends."""

from __future__ import annotations

from importlib import metadata

import pytest

from mxmoe.conformance.commands.main import GROUP
from mxmoe.conformance.commands.main import main

COMMANDS = sorted(
    entry.name
    for entry in metadata.entry_points(group=GROUP)
    if entry.value.startswith("mxmoe.")
)


def said(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    """Exit code and all that was printed."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    captured = capsys.readouterr()
    return ended.value.code, captured.out + captured.err


def test_without_arguments_every_command_is_shown_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, text = said([], capsys)
    assert code == 2
    first = [line.split()[0] for line in text.splitlines() if line.startswith("  ")]
    assert [first.count(name) for name in COMMANDS] == [1] * len(COMMANDS)
    assert "To begin: mxmoe check --candidate" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_plain_and_names_the_exit_codes(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = said([command, "--help"], capsys)
    assert code == 0
    assert text.startswith(f"Usage: mxmoe {command}")
    assert text.isascii()
    assert command == "bench" or "Exit codes: 0 " in text


def test_a_mistyped_command_is_guessed(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = said(["chekc"], capsys)
    assert code == 2
    assert "No such command 'chekc'. Did you mean 'check'?" in text


def test_a_word_like_no_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = said(["xyzzy"], capsys)
    assert code == 2
    assert "No such command 'xyzzy'." in text
    assert "Did you mean" not in text
