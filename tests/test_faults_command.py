"""`mxmoe faults` catches what is planted, and fails when something survives."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mxmoe.conformance.faults.fault import faults_in
from mxmoe.conformance.faults.kill import Kill
from mxmoe.conformance.faults.matrix import conclude_kills
from mxmoe.conformance.faults.run import FaultOptions
from mxmoe.conformance.faults.run import run_faults
from mxmoe.conformance.registry import load_attribute
from mxmoe.conformance.verdict import ExitCode
from mxmoe.reference.errors import BadInput

DOCUMENT = (Path(__file__).parents[1] / "docs" / "faults.md").read_text("utf-8")
(EXAMPLE,) = re.findall(r"```python\n(.*?)```", DOCUMENT, flags=re.DOTALL)
(SHOWN,) = re.findall(r"```console\n\$ [^\n]+\n(.*?)```", DOCUMENT, flags=re.DOTALL)

NOTHING_WRONG = """
def nothing_wrong(candidate):
    '''Nothing.'''
    return candidate

nothing_wrong.check = "test_zero_tokens_give_an_empty_output"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "my_faults.py"


def shape(text: str) -> str:
    """Without what differs from run to run."""
    text = re.sub(r"run .*", "run ID", text)
    return re.sub(r" +[\d.]+$|\d+ s\)", "", text, flags=re.MULTILINE)


def test_the_example_is_caught_as_shown(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(EXAMPLE, encoding="utf-8")
    options = FaultOptions(
        candidate="torch_dense", faults=[f"{file}:expert_2_twice"], profile="dev"
    )
    assert run_faults(options, run_folder=tmp_path / "run") is ExitCode.PASS
    printed = capsys.readouterr().out
    printed = "\n".join(line.rstrip() for line in printed.splitlines())
    assert shape(printed).split() == shape(SHOWN).split()


def test_the_example_has_about_ten_lines() -> None:
    assert len([line for line in EXAMPLE.splitlines() if line]) <= 10
    assert "mxmoe" not in EXAMPLE


def test_a_run_leaves_one_line_a_fault_and_seed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = FaultOptions(
        candidate="torch_dense", faults=["zero_tokens_raise"], seeds=2, profile="dev"
    )
    code = run_faults(options, run_folder=tmp_path / "run", as_document=True)
    document = json.loads(capsys.readouterr().out)
    lines = (tmp_path / "run" / "faults.jsonl").read_text("utf-8").splitlines()
    assert code is ExitCode.PASS
    assert [json.loads(line) for line in lines] == document["faults"]
    assert [one["seed"] for one in document["faults"]] == [0, 1]
    assert {one["base"] for one in document["faults"]} == {"torch_dense"}


def test_a_fault_in_a_member_that_is_not_there_is_not_observable(
    file: Path, tmp_path: Path
) -> None:
    file.write_text(
        "from mxmoe.conformance.faults.plain import PLAIN, changed\n"
        "loader = changed(PLAIN, forward=None, trace=None, forward_fused=None)\n",
        encoding="utf-8",
    )
    options = FaultOptions(
        candidate=f"{file}:loader", faults=["zero_tokens_raise"], profile="dev"
    )
    assert run_faults(options, run_folder=tmp_path / "run") is ExitCode.INVALID
    [line] = (tmp_path / "run" / "faults.jsonl").read_text("utf-8").splitlines()
    assert "exposes no forward" in json.loads(line)["reason"]


def test_a_survivor_is_a_failure(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text(NOTHING_WRONG, encoding="utf-8")
    [fault] = faults_in(load_attribute(f"{file}:nothing_wrong"))
    monkeypatch.setattr("mxmoe.conformance.faults.kill.checks", lambda: [fault.check])
    options = FaultOptions(faults=[f"{file}:nothing_wrong"], profile="dev")
    assert run_faults(options, run_folder=tmp_path / "run") is ExitCode.FAIL


def test_one_seed_in_a_hundred_may_miss() -> None:
    def seeds(missed: int) -> list[Kill]:
        facts = {"fault": "x", "base": "plain", "level": "L3"}
        return [
            Kill(**facts, seed=n, first="test_x" if n >= missed else None)  # type: ignore[arg-type]
            for n in range(100)
        ]

    assert conclude_kills(seeds(1), 0)[0] is ExitCode.PASS
    assert conclude_kills(seeds(2), 0)[0] is ExitCode.FAIL


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"faults": ["drop_limits"]}, "--fault: expected an installed fault"),
        ({"keyword": "no such"}, "-k: expected a part of a fault's name"),
        ({"profile": "slow"}, "--profile: expected one of"),
    ],
)
def test_bad_input_is_one_sentence(
    options: dict[str, object], says: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=says) as error:
        run_faults(FaultOptions(**options), run_folder=tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", ["fault = 3", NOTHING_WRONG.replace("zero", "0")])
def test_what_is_no_fault_is_bad_input(text: str, file: Path) -> None:
    file.write_text(text + "\nfault = globals().get('nothing_wrong', 3)")
    with pytest.raises(BadInput, match="check"):
        faults_in(load_attribute(f"{file}:fault"))
