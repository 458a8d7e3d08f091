"""`mxmoe compare`: only what is the kernel's is called worse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mxmoe.conformance.commands.main import main
from mxmoe.conformance.verdict import ExitCode
from mxmoe.evals.gate.answer_lines import FILE
from mxmoe.evals.gate.comparison import ACROSS
from mxmoe.evals.gate.comparison import Comparison
from mxmoe.evals.gate.comparison import compare_runs
from mxmoe.evals.gate.gate_run import read_gate_run
from mxmoe.evals.gate.order import registered_order
from mxmoe.reference.errors import BadInput

ASKED = 1319
FEW = 200
ORDER = registered_order(ASKED, seed=0)
Write = Callable[..., Path]


def marks(*wrong: int, asked: int = ASKED) -> dict[int, bool]:
    return {question: question not in wrong for question in ORDER[:asked]}


def few(*wrong: int) -> dict[int, bool]:
    """The same of as few questions as show what is meant."""
    return {question: question not in wrong for question in range(FEW)}


def compared(*folders: Path, **options: Any) -> Comparison:
    *baselines, run = map(read_gate_run, folders)
    return compare_runs(baselines, run, **options)


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exited:
        main(["compare", *map(str, arguments)])
    return int(exited.value.code or 0)


def test_equal_runs_are_not_worse(write_gate_run: Write) -> None:
    first = write_gate_run("first", marks(87, 1248))
    second = write_gate_run("second", marks(87, 1248))
    found = compared(first, second)
    assert found.exit_code is ExitCode.PASS
    assert found.paired is not None
    assert (found.paired.lost, found.paired.gained) == ((), ())
    # Seven lost of seven flipped are the fewest that a fair coin shows in 1 of 100.
    assert found.paired.detectable == pytest.approx(9.06 / ASKED, abs=5e-4)


def test_a_worse_run_is_told_with_what_flipped(
    write_gate_run: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = write_gate_run("first", marks(87))
    second = write_gate_run("second", marks(*range(100, 130)), verdict="fail")
    assert command(first, second, "--out", tmp_path / "out") == ExitCode.FAIL
    said = capsys.readouterr().out
    assert "correct  1318 -> 1289 of 1319\n" in said
    assert "lost     30: 100, 101, 102" in said
    assert "111 and 18 more\n" in said
    assert "gained   1: 87\n" in said
    assert "drop     2.20 points (95 % interval 1.4" in said
    facts = json.loads((tmp_path / "out" / "run.json").read_bytes())["compared"]
    assert facts["verdict"] == "fail"
    assert facts["lost"] == list(range(100, 130))
    assert facts["gained"] == [87]
    assert facts["worse"] is True
    assert facts["p_worse"] < 1e-6


DIFFERENT: dict[str, dict[str, Any]] = {
    "candidate": {"candidate": "trtllm_gen"},
    "protocol": {"output_tokens": 8192},
    "model": {"model_sha256": "ffff"},
    "dtype": {"dtype": "bfloat16"},
    "device": {"device": "NVIDIA B200"},
}


@pytest.mark.parametrize("kind", DIFFERENT)
def test_another_configuration_is_refused_unless_told(
    write_gate_run: Write, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first = write_gate_run("first", few(), questions=FEW)
    second = write_gate_run("second", few(), questions=FEW, **DIFFERENT[kind])
    assert command(first, second) == ExitCode.INVALID
    assert f"refused  {kind}: {next(iter(DIFFERENT[kind]))}: expected" in (
        capsys.readouterr().out
    )
    for other in DIFFERENT:
        code = command(first, second, "--across", other)
        assert code == (ExitCode.PASS if other == kind else ExitCode.INVALID)


def test_a_fault_is_another_candidate(write_gate_run: Write) -> None:
    first = write_gate_run("first", few(), questions=FEW)
    second = write_gate_run("second", few(), questions=FEW, fault="biases_not_shuffled")
    assert compared(first, second).exit_code is ExitCode.INVALID
    assert compared(first, second, across=["candidate"]).exit_code is ExitCode.PASS


def test_runs_that_stopped_elsewhere_are_compared_on_common_questions_if_told(
    write_gate_run: Write,
) -> None:
    first = write_gate_run("first", marks())
    second = write_gate_run("second", marks(*ORDER[:12], asked=231))
    assert compared(first, second).refused == (
        "questions: expected 1319 answered, found 231",
    )
    found = compared(first, second, across=["questions"])
    assert found.paired is not None
    assert found.paired.asked == 231
    assert found.exit_code is ExitCode.FAIL


def test_a_comparison_that_could_see_nothing_is_inconclusive(
    write_gate_run: Write,
) -> None:
    first = write_gate_run("first", marks(asked=5))
    second = write_gate_run("second", marks(*ORDER[:5], asked=5))
    found = compared(first, second)
    assert found.exit_code is ExitCode.INCONCLUSIVE


@pytest.mark.parametrize("verdict", ["invalid", "inconclusive"])
def test_a_run_without_a_score_is_refused_whatever_is_told(
    write_gate_run: Write, verdict: str
) -> None:
    first = write_gate_run("first", few(), questions=FEW)
    second = write_gate_run("second", few(), questions=FEW, verdict=verdict)
    for folders in ((first, second), (second, first)):
        assert compared(*folders, across=list(ACROSS)).exit_code is ExitCode.INVALID


def test_several_baselines_average_out_one_lucky_run(write_gate_run: Write) -> None:
    unstable = range(40)
    lucky = write_gate_run("lucky", few(), questions=FEW)
    others = [
        write_gate_run(
            f"b{n}", few(*[q for q in unstable if (q + n) % 2]), questions=FEW
        )
        for n in range(7)
    ]
    run = write_gate_run("run", few(*unstable[:20]), questions=FEW)
    assert compared(lucky, run).exit_code is ExitCode.FAIL
    found = compared(lucky, *others, run)
    assert found.exit_code is ExitCode.PASS
    assert found.paired is not None
    assert found.paired.drop == pytest.approx((20 - 7 * 20 / 8) / FEW)


def test_what_else_changed_is_noted(write_gate_run: Write) -> None:
    first = write_gate_run("first", few(), questions=FEW)
    second = write_gate_run(
        "second",
        few(),
        questions=FEW,
        versions={"torch": "2.14.0"},
        candidate_file="beef",
    )
    assert compared(first, second).notes == (
        "torch: was '2.13.0', is '2.14.0'",
        "candidate_file: was 'c0de', is 'beef'",
    )


def test_one_line_of_json_is_all_that_is_printed(
    write_gate_run: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (
        write_gate_run(name, few(), questions=FEW) for name in ("first", "second")
    )
    assert command(first, second, "--json") == ExitCode.PASS
    [line] = capsys.readouterr().out.splitlines()
    assert json.loads(line)["run"] == str(second)


def test_a_damaged_run_is_bad_input(write_gate_run: Write) -> None:
    first, second = (write_gate_run(name, marks()) for name in ("first", "second"))
    path = second / FILE
    path.write_bytes(path.read_bytes().replace(b'"tokens": 1', b'"tokens": 2', 1))
    assert command(first, second) == ExitCode.USAGE
    path.unlink()
    with pytest.raises(BadInput, match="the answers that the verdict was found on"):
        compared(first, second)


def test_what_is_no_ended_run_of_the_gate_is_bad_input(
    write_gate_run: Write, tmp_path: Path
) -> None:
    first = write_gate_run("first", marks())
    assert command(first) == ExitCode.USAGE
    assert command(first, tmp_path / "absent") == ExitCode.USAGE
    assert command(first, first, "--across", "everything") == ExitCode.USAGE
    other = write_gate_run("other", marks(), command="check")
    with pytest.raises(BadInput, match="expected a run of mxmoe gate, found one of"):
        read_gate_run(other)
    facts = json.loads((first / "run.json").read_bytes())
    del facts["verdict"]
    (first / "run.json").write_text(json.dumps(facts), encoding="utf-8")
    with pytest.raises(BadInput, match="expected a run that has ended"):
        read_gate_run(first)


def test_names_with_escape_codes_are_printed_harmlessly(
    write_gate_run: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    first = write_gate_run("first", few(), questions=FEW)
    second = write_gate_run("second", few(), questions=FEW, candidate="\x1b[2Jgood")
    assert command(first, second) == ExitCode.INVALID
    assert "\x1b" not in capsys.readouterr().out
