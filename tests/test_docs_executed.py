"""Every command of the documents is run by a test, or said to need what CI lacks.

Three places say which: `EXACTLY` (run here as written; most of it takes minutes, so at
night), `ELSEWHERE` (a test that does the same, on data of its own), and the table in
docs/README.md (a GPU, a B200, weights, a network).
"""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mxmoe.conformance.commands.main import main

ROOT = Path(__file__).parents[1]
PAGES = (
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
INDENTED = re.compile(r"^ {4}((?:mxmoe|pip|pytest|ruff) .*)$", flags=re.MULTILINE)
Write = Callable[..., Path]


def page(name: str) -> str:
    (found,) = (p for p in PAGES if p.name == name and p != ROOT / "docs/README.md")
    return found.read_text("utf-8")


def commands_of(text: str) -> list[str]:
    found = INDENTED.findall(BLOCK.sub("", text))
    for language, block in BLOCK.findall(text):
        lines = block.replace("\\\n", " ").splitlines()
        if language == "console" and block.startswith("$ "):
            # What else stands there is printed.
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        if language in ("console", "sh"):
            found += lines
    return [" ".join(line.partition(" #")[0].split()) for line in found]


COMMANDS = sorted({line for p in PAGES for line in commands_of(p.read_text("utf-8"))})

# (command, exit code, page and number of the text block that shows what it prints).
# In this order, in one folder, with the examples of README and docs/faults.md in it.
NIGHTLY: list[tuple[str, int, tuple[str, int] | None]] = [
    ("mxmoe check --b200 --run-dir b200-run", 3, None),
    ("tar czf b200-run.tar.gz b200-run", 0, None),
    ("mxmoe check --b200 -m bytewise", 3, None),
    ("mxmoe check --b200 -k test_output", 3, None),
    ("mxmoe check --b200", 3, None),
    (
        "mxmoe locate -c trtllm_gen --fault biases_not_shuffled --fault-layer 2",
        1,
        ("locate.md", 0),
    ),
    ("mxmoe faults --fault drop_limit --full", 0, None),
    (
        "mxmoe gate --candidate trtllm_gen --fault biases_not_shuffled "
        "--run-dir runs/wrong",
        1,
        ("gate.md", 0),
    ),
    ("mxmoe gate --candidate trtllm_gen --run-dir runs/right", 0, ("gate.md", 1)),
    ("mxmoe teacher-forced --candidate trtllm_gen", 0, None),
    ("mxmoe bisect --experts -c my_kernel.py", 4, None),
    ("mxmoe check -c trtllm_gen --run-dir runs/check", 0, None),
    ("mxmoe gate -c trtllm_gen --run-dir runs/gate", 0, None),
    ("mxmoe faults --run-dir runs/faults", 0, None),
    ("mxmoe report runs/check runs/gate runs/faults", 0, None),
]

COMPARE = (
    "mxmoe compare runs/baseline runs/tonight",
    "mxmoe compare runs/n1 runs/n2 runs/n3 runs/n4 runs/n5 runs/n6 runs/n7 runs/n8 "
    "runs/tonight --out runs/compared",
)
HISTORY = "mxmoe history runs/nights"
EXACTLY = {line for line, *_ in NIGHTLY} | {*COMPARE, HISTORY}

ELSEWHERE = {
    "mxmoe check --candidate my_kernel.py:candidate": (
        "test_readme.py::test_the_example_passes_from_its_own_directory"
    ),
    "mxmoe check --candidate my_kernel.py:candidate -k test_output": (
        "test_readme.py::test_the_example_with_the_seed_fault_fails_as_shown"
    ),
    "mxmoe replay runs/20261125-142543-4888/bundles/909d7990f5b7": (
        "test_readme.py::test_the_example_with_the_seed_fault_fails_as_shown"
    ),
    "mxmoe replay runs/20261125-142543-4888/bundles/909d7990f5b7 "
    "--candidate torch_dense": (
        "test_readme.py::test_the_example_with_the_seed_fault_fails_as_shown"
    ),
    "python3 -m venv .venv && .venv/bin/pip install tox && .venv/bin/tox -e check": (
        "test_main_job.py::test_the_readme_shows_its_verdict_and_table"
    ),
    "mxmoe check --candidate mxmoe.conformance.faults.catalogue:biases_not_shuffled "
    "-k gpt_oss-tp8r7-fc1_bias": (
        "test_docs.py::test_the_fault_of_the_pull_request_fails_as_shown"
    ),
    "mxmoe faults": "test_conformance_faults.py::test_fault_is_found_and_named",
    "pytest -m faults": "test_conformance_faults.py::test_fault_is_found_and_named",
    "mxmoe faults --fault my_faults.py:expert_2_twice --candidate torch_dense": (
        "test_faults_command.py::test_the_example_is_caught_as_shown"
    ),
    "mxmoe faults -k routing --seeds 20": (
        "test_faults_command.py::test_a_run_leaves_one_line_a_fault_and_seed"
    ),
    "mxmoe faults --candidate my_kernel.py": (
        "test_faults_command.py::test_a_run_leaves_one_line_a_fault_and_seed"
    ),
    "mxmoe peers": "test_peers.py::test_the_whole_page_shows_what_a_run_finds",
    "mxmoe bisect GOOD BAD --repo ../my_engine -- mxmoe bisect-step "
    "-c csrc/moe/candidate.py:candidate --check test_output_stays": (
        "bisect/test_bisect_64_commits.py::"
        "test_one_culprit_among_commits_that_do_not_build_fail_otherwise_or_are_flaky"
    ),
    "git bisect start BAD GOOD": (
        "bisect/test_bisect_step.py::"
        "test_inside_of_git_bisect_run_the_bad_end_teaches_the_fault"
    ),
    "git bisect run mxmoe bisect-step -c my_kernel.py --check test_output_stays": (
        "bisect/test_bisect_step.py::"
        "test_inside_of_git_bisect_run_the_bad_end_teaches_the_fault"
    ),
    "mxmoe locate --dumps reference/ mine/ --model path/to/checkpoint": (
        "test_locate_dumps.py::test_a_wrong_entry_is_named"
    ),
    "python -m mxmoe.evals.locate.measure_memory --experts 32 --layers 2 --tokens 64": (
        "locate/test_locate_memory.py::"
        "test_the_documented_command_prints_the_place_and_both_peaks"
    ),
    "transformers serve evals/grade_school/trained_model --device cpu "
    "--dtype float32 &": (
        "endpoint/test_endpoint_real_server.py::"
        "test_the_model_that_ships_passes_by_the_rule_of_gsm8k"
    ),
    "mxmoe gate --endpoint http://127.0.0.1:8000 "
    "--model evals/grade_school/trained_model": (
        "endpoint/test_endpoint_real_server.py::"
        "test_the_model_that_ships_passes_by_the_rule_of_gsm8k"
    ),
    "mxmoe serve-bench http://127.0.0.1:8000 --model gpt-oss-120b --isl 1000 "
    "--osl 1000 --gate runs/ID": (
        "endpoint/test_serve_bench.py::test_figures_are_those_of_the_server"
    ),
    "python -m mxmoe.evals.train_grade_school runs/grade_school --minutes 8": (
        "test_training_run.py::test_a_finished_run_leaves_a_model_with_its_card"
    ),
    "python -m mxmoe.evals.score_grade_school --candidate trtllm_gen "
    "--out record.json": "test_inside_answers.py::test_a_run_is_recorded",
    "python -m mxmoe.evals.nightly runs/tried -c my_kernel.py:candidate --early "
    "--only gate --only history --only report": (
        "test_nightly.py::"
        "test_small_nights_end_and_a_broken_kernel_is_seen_in_all_that_follows"
    ),
    "tox -e nightly": "test_nightly.py::test_tox_runs_the_long_tests_and_the_night",
}

# What a person types to work on the suite; these are the tests.
THE_TESTS = {
    "python3 -m venv .venv && .venv/bin/pip install tox && .venv/bin/tox",
    "pytest -m bytewise",
    "pytest tests",
    "pytest -m nightly",
    "ruff check . && ruff format --check . && mypy",
}


def needs() -> dict[str, str]:
    """The table of docs/README.md: command -> what it needs."""
    text = (ROOT / "docs" / "README.md").read_text("utf-8")
    _, _, section = text.partition("## What no test runs\n")
    return dict(re.findall(r"^\| `([^`]+)` \| (.+) \|$", section, flags=re.MULTILINE))


def test_every_command_is_run_or_says_what_it_needs() -> None:
    known = [*EXACTLY, *ELSEWHERE, *THE_TESTS, *needs()]
    assert len(known) == len(set(known))
    assert sorted(known) == COMMANDS


def test_what_runs_elsewhere_is_a_test_there() -> None:
    for command, place in ELSEWHERE.items():
        file, _, name = place.partition("::")
        tree = ast.parse((ROOT / "tests" / file).read_text("utf-8"))
        tests = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
        assert name in tests, command


def printed(command: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(shlex.split(command)[1:])
    return int(ended.value.code or 0), capsys.readouterr().out


def text_block(name: str, number: int) -> str:
    found = [
        block for language, block in BLOCK.findall(page(name)) if language == "text"
    ]
    return str(found[number])


def test_a_worse_run_is_compared_as_shown(
    write_gate_run: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_gate_run("runs/baseline", {n: n != 87 for n in range(1319)})
    worse = {n: not 100 <= n < 130 for n in range(1319)}
    write_gate_run("runs/tonight", worse, verdict="fail")
    code, said = printed(COMPARE[0], capsys)
    assert code == 1
    assert said == text_block("compare.md", 0)


def test_a_worse_run_is_compared_with_eight(
    write_gate_run: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    right = {n: n != 7 for n in range(200)}
    first = write_gate_run("runs/n1", right, questions=200)
    for night in range(2, 9):
        shutil.copytree(first, f"runs/n{night}")
    worse = {n: n >= 30 for n in range(200)}
    write_gate_run("runs/tonight", worse, verdict="fail", questions=200)
    code, said = printed(COMPARE[1], capsys)
    assert code == 1
    assert said.endswith("verdict: WORSE: runs/tonight\n")
    assert (tmp_path / "runs" / "compared" / "run.json").is_file()


def test_a_drop_is_shown_as_on_the_page(
    write_gate_run: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for night in range(14):
        wrong = 20 if night >= 12 else 1
        write_gate_run(
            f"runs/nights/n{night:02d}",
            {n: n >= wrong for n in range(100)},
            started=f"2026-11-{night + 1:02d}T02:00:00+00:00",
            questions=100,
            verdict="fail" if wrong == 20 else "pass",
        )
    code, said = printed(HISTORY, capsys)
    assert code == 1
    for line in text_block("nightly.md", 0).splitlines():
        assert re.sub(r"protocol \w+", "", line) in re.sub(r"protocol \w+", "", said)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a reader stands who has saved the two examples."""
    found = tmp_path_factory.mktemp("reader")
    for name, source in (("my_kernel.py", "README.md"), ("my_faults.py", "faults.md")):
        (example,) = (b for kind, b in BLOCK.findall(page(source)) if kind == "python")
        (found / name).write_text(example, encoding="utf-8")
    return found


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("command", "code", "shown"), NIGHTLY, ids=[line for line, *_ in NIGHTLY]
)
def test_a_command_ends_as_the_page_says(
    folder: Path, command: str, code: int, shown: tuple[str, int] | None
) -> None:
    program, *arguments = shlex.split(command)
    call = [program]
    if program == "mxmoe":
        text = "from mxmoe.conformance.commands.main import main; main()"
        call = [sys.executable, "-c", text]
    done = subprocess.run(
        [*call, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    if shown is not None:
        for line in text_block(*shown).splitlines():
            assert line in done.stdout.splitlines()
