"""`mxmoe gate --endpoint` says what it cannot verify, and refuses in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mxmoe.conformance.commands.main import main


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["gate", *arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_the_command_says_what_is_not_verified(
    server: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    quick_rule: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ENGINE_KEY", "sk-secret-0123456789")
    run = tmp_path / "run"
    code = command(
        *("--endpoint", server.url, "--model", "served", "--json"),
        *("--api-key-env", "ENGINE_KEY", "--run-dir", str(run)),
    )
    said = capsys.readouterr().out
    assert code == 0
    *_, verdict, as_json = said.splitlines()
    assert verdict == (
        f"verdict: PASS served at {server.url} on grade_school; not verified: that the "
        "kernel under test ran, which weights are served, finite logits"
    )
    assert json.loads(as_json)["not_verified"][1] == "which weights are served"
    assert server.headers[0]["Authorization"] == "Bearer sk-secret-0123456789"
    assert "sk-secret" not in said
    assert not any(b"sk-secret" in path.read_bytes() for path in run.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "expected either --candidate or --endpoint"),
        (("--endpoint", "http://a", "-c", "b"), "either --candidate or --endpoint"),
        (("--endpoint", "http://a"), "expected the name of a model"),
        (("--endpoint", "http://u:hidden@a", "--model", "m"), "without user and pass"),
        (("--endpoint", "http://a", "--model", "m", "--api", "x"), "chat or comp"),
        (("--endpoint", "http://a", "--fault", "x"), "expected --candidate"),
        (
            ("--endpoint", "http://a", "--model", "m", "--api-key-env", "NO_SUCH_KEY"),
            "expected a variable that is set, found NO_SUCH_KEY",
        ),
    ],
)
def test_what_cannot_be_asked_is_said_in_one_line(
    tmp_path: Path,
    arguments: tuple[str, ...],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command(*arguments, "--run-dir", str(tmp_path / "run")) == 2
    found = capsys.readouterr().err
    assert said in found
    assert "hidden" not in found
    assert not (tmp_path / "run").exists()
