"""A night runs every step and is compared with those before; its workflow is valid."""

from __future__ import annotations

import configparser
import json
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import typer

from mxmoe.conformance.verdict import ExitCode
from mxmoe.evals import nightly
from mxmoe.evals.nightly import Asked
from mxmoe.evals.nightly import run_night
from mxmoe.evals.nightly import worst_of

ROOT = Path(__file__).parents[1]
Write = Callable[..., Path]


class Commands:
    """Takes the arguments of `mxmoe`; the gate leaves a run like `template`."""

    def __init__(self, template: Path | None = None, **codes: int) -> None:
        self.template, self.codes = template, codes
        self.asked: list[Sequence[str]] = []

    def __call__(self, arguments: Sequence[str]) -> int:
        self.asked.append(arguments)
        if arguments[0] == "gate" and self.template is not None:
            shutil.copytree(self.template, arguments[-1])
        return self.codes.get(arguments[0].replace("-", "_"), 0)

    @property
    def names(self) -> list[str]:
        return [arguments[0] for arguments in self.asked]


def night(
    runs: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch, **more: Any
) -> ExitCode:
    ids = iter(range(1000))
    monkeypatch.setattr(
        nightly, "new_run_id", lambda: f"night-{len(list(runs.glob('*')))}-{next(ids)}"
    )
    said: list[str] = []
    asked = Asked(candidates=["torch_dense"], profile="dev", **more)
    return run_night(runs, asked, run=commands, say=said.append)


def test_every_step_runs_and_a_failure_stops_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = Commands(check=1, gate=3, teacher_forced=2)
    assert night(tmp_path / "nights", commands, monkeypatch) is ExitCode.FAIL
    assert commands.names[:3] == ["check", "gate", "teacher-forced"]
    assert "history" in commands.names
    assert "compare" not in commands.names
    [facts] = (tmp_path / "nights").glob("*/run.json")
    steps = {s["name"]: s for s in json.loads(facts.read_bytes())["steps"]}
    assert steps["gate torch_dense"]["exit_code"] == 3
    assert steps["compare torch_dense"]["skipped"] == "the gate left no score"


def test_a_night_is_compared_with_the_first_eight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_gate_run: Write
) -> None:
    template = write_gate_run("template", dict.fromkeys(range(20), True), questions=20)
    nights = tmp_path / "nights"
    for number in range(11):
        commands = Commands(template)
        assert night(nights, commands, monkeypatch) is ExitCode.PASS
        compared = [a for a in commands.asked if a[0] == "compare"]
        assert len(compared) == min(number, 1)
        for arguments in compared:
            *baselines, run, _out, _folder = arguments[1:]
            assert len(baselines) == min(number, 8)
            assert run not in baselines
            assert all((Path(folder) / "run.json").exists() for folder in baselines)


def test_runs_without_a_score_are_no_baseline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_gate_run: Write
) -> None:
    marks = dict.fromkeys(range(20), True)
    nights = tmp_path / "nights"
    bad = write_gate_run("bad", marks, questions=20, verdict="invalid")
    early = write_gate_run("early", marks, questions=30)
    good = write_gate_run("good", marks, questions=20)
    for template in (bad, early, good):
        commands = Commands(template)
        night(nights, commands, monkeypatch)
        assert "compare" not in commands.names


@pytest.mark.parametrize(
    ("codes", "worst"),
    [
        ([], 0),
        ([0, 0], 0),
        ([0, 4], 4),
        ([4, 3], 3),
        ([2, 0], 3),
        ([0, -9], 3),
        ([0, 3, 1], 1),
    ],
)
def test_a_failure_counts_before_what_could_not_be_judged(
    codes: list[int], worst: int
) -> None:
    assert worst_of(codes) == worst


def test_the_workflow_has_no_secret_and_keeps_no_credentials(
    workflow: dict[Any, Any],
) -> None:
    text = (ROOT / ".github" / "workflows" / "nightly.yml").read_text("utf-8")
    assert "secrets." not in text
    assert "env:" not in text
    [checkout] = [
        step
        for step in workflow["jobs"]["nightly"]["steps"]
        if step.get("uses", "").startswith("actions/checkout@")
    ]
    assert checkout["with"]["persist-credentials"] is False


def test_only_chosen_steps_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = Commands()
    few = ("gate", "history")
    night(tmp_path / "nights", commands, monkeypatch, only=few, early=True)
    assert commands.names == ["gate", "history"]
    assert "--full" not in commands.asked[0]


def test_an_unknown_step_is_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as ended:
        nightly.main(tmp_path / "nights", only=["gate", "gat"])
    assert ended.value.exit_code == ExitCode.USAGE
    assert "--only: expected check, gate, " in capsys.readouterr().out
    assert not (tmp_path / "nights").exists()


def test_what_is_known_stands_in_the_night_while_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(arguments: Sequence[str]) -> int:
        if arguments[0] == "history":
            raise KeyboardInterrupt
        return 1

    with pytest.raises(KeyboardInterrupt):
        night(tmp_path / "nights", killed, monkeypatch)  # type: ignore[arg-type]
    [facts] = (tmp_path / "nights").glob("*/run.json")
    steps = json.loads(facts.read_bytes())["steps"]
    assert [step["exit_code"] for step in steps] == [1, 1, 1, None]


def test_a_step_that_does_not_end_is_killed_with_what_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In the place of Python: a shell whose child would outlive it.
    shell = tmp_path / "python"
    shell.write_text("#!/bin/sh\nsleep 60 & echo $! > child; wait\n", "utf-8")
    shell.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(shell))
    monkeypatch.chdir(tmp_path)
    assert nightly._mxmoe((), seconds=0.5) == -9
    child = Path("/proc") / (tmp_path / "child").read_text("utf-8").strip()
    until = time.monotonic() + 5
    while child.exists() and "Z" not in (child / "stat").read_text().split():
        assert time.monotonic() < until, "the child lives"
        time.sleep(0.01)


def test_tox_runs_the_long_tests_and_the_night() -> None:
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini", encoding="utf-8")
    section = tox["testenv:nightly"]
    assert "pytest -m nightly" in section["commands"]
    assert "python -m mxmoe.evals.nightly" in section["commands"]
    assert section["ignore_errors"] == "true"
    assert set(section["extras"].split(", ")) == {"eval", "hf", "report"}


@pytest.fixture
def workflow() -> dict[Any, Any]:
    yaml = pytest.importorskip("yaml", reason="PyYAML comes with transformers")
    text = (ROOT / ".github" / "workflows" / "nightly.yml").read_text("utf-8")
    found: dict[Any, Any] = yaml.safe_load(text)
    return found


def test_the_workflow_runs_every_night(workflow: dict[Any, Any]) -> None:
    triggers = workflow[True]  # YAML 1.1 reads the key `on` as a bool
    [schedule] = triggers["schedule"]
    minute, hour, *days = schedule["cron"].split()
    assert (0 <= int(minute) < 60, 0 <= int(hour) < 24) == (True, True)
    assert days == ["*", "*", "*"]
    assert "workflow_dispatch" in triggers
    assert workflow["permissions"] == {"contents": "read"}


def test_the_workflow_keeps_and_uploads_the_nights_whatever_the_verdict(
    workflow: dict[Any, Any],
) -> None:
    steps = workflow["jobs"]["nightly"]["steps"]
    by_action = {step["uses"].split("@")[0]: step for step in steps if "uses" in step}
    restored, saved = (
        by_action[f"actions/cache/{action}"]["with"] for action in ("restore", "save")
    )
    uploaded = by_action["actions/upload-artifact"]
    assert (
        restored["path"] == saved["path"] == uploaded["with"]["path"] == "runs/nights"
    )
    assert restored["key"] == saved["key"]
    assert saved["key"].startswith(restored["restore-keys"])
    assert by_action["actions/cache/save"]["if"] == uploaded["if"] == "always()"
    [command] = [step["run"] for step in steps if "run" in step]
    assert "tox -e nightly" in command
    [night] = [step for step in steps if "run" in step]
    job = workflow["jobs"]["nightly"]
    assert night["timeout-minutes"] < job["timeout-minutes"] < 360
    for step in steps:
        assert ("uses" in step) != ("run" in step)
        assert "@" in step.get("uses", "@")


KERNELS = Path(__file__).parent / "gate_blind" / "blind_candidates.py"


@pytest.mark.nightly
def test_small_nights_end_and_a_broken_kernel_is_seen_in_all_that_follows(
    tmp_path: Path,
) -> None:
    pytest.importorskip("transformers", reason="needs the extra 'hf'")
    pytest.importorskip("jinja2", reason="needs the extra 'report'")
    nights, kernel = tmp_path / "nights", tmp_path / "kernel.py"
    steps = [word for s in ("gate", "history", "report") for word in ("--only", s)]
    which = ["--candidate", f"{kernel}:candidate", "--early"]
    said = {}
    for name, code in (("Right", 0), ("OnlyInDecode", 1)):
        kernel.write_text(KERNELS.read_text("utf-8") + f"\n\ncandidate = {name}()\n")
        ended = subprocess.run(
            [sys.executable, "-m", "mxmoe.evals.nightly", str(nights), *which, *steps],
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == code, ended.stdout + ended.stderr
        said[name] = ended.stdout
    assert f"gate {kernel}:candidate fail\nhistory" in said["OnlyInDecode"]
    facts = [json.loads(p.read_bytes()) for p in sorted(nights.glob("*/run.json"))]
    assert [night["verdict"] for night in facts] == ["pass", "fail"]
    codes = [[step["exit_code"] for step in night["steps"]] for night in facts]
    assert codes == [[0, 0, 0], [1, 0, 0]]
    with sqlite3.connect(nights / "history.sqlite") as database:
        rows = database.execute("SELECT verdict FROM runs ORDER BY started").fetchall()
    assert rows == [("pass",), ("fail",)]
    pages = sorted(nights.glob("*/report/report.json"))
    assert len(pages) == 2
    assert "broken numerics" in pages[1].read_text("utf-8")
