"""One commit of a real candidate: what `mxmoe bisect-step` says, and why."""

from __future__ import annotations

import json
import os
import py_compile
import sys
from pathlib import Path

import pytest

import mxmoe.conformance
from mxmoe.conformance.commands.main import main
from mxmoe.evals.bisect.lesson import Lesson
from mxmoe.evals.bisect.lesson import read_lesson
from mxmoe.evals.bisect.request import Request
from mxmoe.evals.bisect.step import BAD_END
from mxmoe.evals.bisect.step import BETWEEN
from mxmoe.evals.bisect.step import GOOD_END
from mxmoe.evals.bisect.step import Bench
from mxmoe.evals.bisect.step_code import Abort
from mxmoe.evals.bisect.step_code import Step
from mxmoe.evals.bisect.step_code import StepCode
from mxmoe.evals.bisect.warm import import_what_a_judgement_needs

RIGHT = '''"""One commit."""
import torch
from mxmoe.kernels.torch_dense import candidate as right


class candidate:
    name = "mine"
    capabilities = right.capabilities

    def prepare(self, weights, config, shard, device):
        return right.prepare(weights, config, shard, device)

    def forward(self, prepared, x, routing, *, tactic=None):
        out = right.forward(prepared, x, routing)
        return out
'''
WRONG = RIGHT.replace("return out", "return -out")
OTHER = RIGHT.replace("return out", "return out + (torch.arange(out.shape[1]) == 3)")
RAISES = RIGHT.replace("return out", "raise ValueError('no')")
BROKEN = RIGHT + "\ndef broken(:\n"
DIES = RIGHT.replace("import torch\n", "import os, torch\n").replace(
    "return out", "os._exit(0)"
)
HANGS = RIGHT.replace("import torch\n", "import time, torch\n").replace(
    "return out", "time.sleep(60)"
)
UNSUPPORTED = RIGHT.replace(
    "right.capabilities", "{**right.capabilities, 'shapes': lambda c: False}"
)
CASE = "e1k1h32i32/tp1r0/t1/s0"
ONE = ("--repeat", "1", "--json")
CHECK = "test_output_stays_within_the_bound"


@pytest.fixture(scope="module", autouse=True)
def warm() -> None:
    import_what_a_judgement_needs()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    request = Request(
        candidate="my_kernel.py", check=CHECK, case=CASE, repeat=1, seconds=30
    )
    return Bench(
        request=request, runs=tmp_path / "runs", lesson=tmp_path / "lesson.json"
    )


def judge(bench: Bench, repo, number: int, role: str = BETWEEN) -> Step:
    repo.git("checkout", "-q", repo.commits[number])
    return bench.judge(repo.folder, role)


def test_each_kind_of_commit_gets_the_code_that_git_should_hear(
    make_repo, bench: Bench
) -> None:
    repo = make_repo([RIGHT, WRONG, OTHER, RAISES, BROKEN, DIES, UNSUPPORTED])
    assert judge(bench, repo, 1, BAD_END).code is StepCode.BAD
    assert judge(bench, repo, 0, GOOD_END).code is StepCode.GOOD
    assert judge(bench, repo, 1).code is StepCode.BAD
    reasons = {}
    for number in range(2, 7):
        step = judge(bench, repo, number)
        assert step.code is StepCode.SKIP, (number, step)
        reasons[number] = step.reason
    assert "another failure" in reasons[2]
    assert "forward raised ValueError: no" in reasons[3]
    assert reasons[4].startswith("my_kernel.py: failed to import it: SyntaxError")
    assert "the process died (exit code 0)" in reasons[5]
    assert "shapes" in reasons[6]
    assert repo.git("status", "--porcelain") == ""


@pytest.mark.nightly
def test_a_culprit_that_raises_in_every_call_can_be_looked_for(
    make_repo, bench: Bench
) -> None:
    repo = make_repo([RAISES, WRONG])
    assert judge(bench, repo, 0, BAD_END).code is StepCode.BAD
    assert judge(bench, repo, 0).code is StepCode.BAD
    assert judge(bench, repo, 1).code is StepCode.SKIP


def test_bytecode_of_another_commit_is_not_run(make_repo, bench: Bench) -> None:
    # Two sources of one size and one time have one `.pyc`.
    assert len(WRONG) == len(RIGHT.replace("return out", "return +out"))
    repo = make_repo([RIGHT.replace("return out", "return +out"), WRONG])
    Lesson().write(bench.lesson)
    file = repo.folder / "my_kernel.py"
    repo.git("checkout", "-q", repo.commits[1])
    os.utime(file, (1_700_000_000, 1_700_000_000))
    py_compile.compile(str(file), doraise=True)
    repo.git("checkout", "-q", repo.commits[0])
    os.utime(file, (1_700_000_000, 1_700_000_000))
    assert bench.judge(repo.folder, BETWEEN).code is StepCode.GOOD


def test_a_candidate_that_hangs_cannot_be_tested(make_repo, tmp_path: Path) -> None:
    repo = make_repo([HANGS])
    request = Request(
        candidate="my_kernel.py", check=CHECK, case=CASE, repeat=1, seconds=2
    )
    bench = Bench(request=request, runs=tmp_path / "r", lesson=tmp_path / "l")
    step = bench.judge(repo.folder, BETWEEN)
    assert step.code is StepCode.SKIP
    assert step.reason == "did not end within 2 s"


def test_what_the_bad_end_showed_is_written_down(make_repo, bench: Bench) -> None:
    repo = make_repo([WRONG])
    judge(bench, repo, 0, BAD_END)
    lesson = read_lesson(bench.lesson)
    assert lesson.case == CASE
    assert lesson.signatures is not None
    assert lesson.signatures[0].check == CHECK


def test_a_build_that_fails_cannot_be_tested_and_one_that_works_is_run_in_the_tree(
    make_repo, bench: Bench, tmp_path: Path
) -> None:
    repo = make_repo(["# not built yet\n"])
    (tmp_path / "built.py").write_text(RIGHT)
    runs = {"runs": tmp_path / "runs", "lesson": tmp_path / "lesson"}

    def built(command: str) -> Step:
        request = Request(
            candidate="my_kernel.py", check=CHECK, case=CASE, repeat=1, build=command
        )
        return Bench(request=request, **runs).judge(repo.folder, BETWEEN)

    failed = built("echo no compiler >&2; exit 2")
    assert (failed.code, failed.reason) == (
        StepCode.SKIP,
        "does not build (exit code 2): no compiler",
    )
    assert built(f"cp {tmp_path}/built.py my_kernel.py").code is StepCode.GOOD


def test_an_installed_copy_of_the_trees_package_is_no_commit(
    make_repo, bench: Bench, tmp_path: Path, monkeypatch
) -> None:
    repo = make_repo([RIGHT.replace("import torch", "import torch\nimport helper_42")])
    (repo.folder / "src").mkdir()
    (repo.folder / "src" / "helper_42.py").write_text("")
    installed = tmp_path / "installed"
    installed.mkdir()
    (installed / "helper_42.py").write_text("")
    monkeypatch.syspath_prepend(installed)
    with pytest.raises(Abort, match="to come from the bisected tree, found helper_42"):
        bench.judge(repo.folder, BETWEEN)


def test_a_suite_that_git_bisects_too_is_refused(
    make_repo, bench: Bench, monkeypatch
) -> None:
    repo = make_repo([RIGHT])
    inside = str(repo.folder / "my_kernel.py")
    monkeypatch.setattr(mxmoe.conformance, "__file__", inside)
    with pytest.raises(Abort, match="mxmoe itself comes from the bisected tree") as why:
        bench.judge(repo.folder, BETWEEN)
    assert why.value.code >= 128


def test_a_candidate_outside_of_the_repository_is_refused(
    make_repo, tmp_path: Path
) -> None:
    repo = make_repo([RIGHT])
    request = Request(candidate="../other.py", check=CHECK)
    bench = Bench(request=request, runs=tmp_path / "r", lesson=tmp_path / "l")
    with pytest.raises(Abort, match="expected a file of the bisected tree"):
        bench.judge(repo.folder, BETWEEN)


@pytest.mark.nightly
def test_a_bundle_is_looked_for_by_what_it_shows(
    make_repo, bench: Bench, tmp_path: Path
) -> None:
    repo = make_repo([RIGHT, WRONG, OTHER])
    judge(bench, repo, 1)
    (bundle,) = (tmp_path / "runs").glob("*/bundles/*")
    request = Request(candidate=None, bundle=bundle, repeat=1)
    again = Bench(request=request, runs=tmp_path / "again", lesson=tmp_path / "l")
    codes = [judge(again, repo, number).code for number in (0, 1, 2)]
    assert codes == [StepCode.GOOD, StepCode.BAD, StepCode.SKIP]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--no-such-option"],
        ["--check"],
        ["--repeat", "0"],
        ["-c", "my_kernel.py"],
        ["-c", "my_kernel.py", "--check", "x", "--score"],
        ["--check", "x"],
        ["-c", "my_kernel.py", "--check", "x", "--on-timeout", "good"],
        ["--bundle", "nowhere"],
    ],
)
def test_wrong_usage_never_tells_git_that_a_commit_is_bad(
    make_repo, monkeypatch, capsys, arguments: list[str]
) -> None:
    monkeypatch.chdir(make_repo([RIGHT]).folder)
    with pytest.raises(SystemExit) as stopped:
        main(["bisect-step", *arguments])
    assert stopped.value.code == 129
    printed = capsys.readouterr()
    assert "Error" in printed.err or "expected" in printed.out


def test_json_holds_the_code_the_reason_and_the_signature(
    make_repo, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(make_repo([WRONG]).folder)
    with pytest.raises(SystemExit) as stopped:
        main(
            [
                "bisect-step",
                "-c",
                "my_kernel.py",
                "--check",
                CHECK,
                "--case",
                CASE,
                *ONE,
            ]
        )
    assert stopped.value.code == 1
    document = json.loads(capsys.readouterr().out)
    assert document["verdict"] == "bad"
    assert document["signatures"][0]["check"] == CHECK


@pytest.mark.nightly
def test_inside_of_git_bisect_run_the_bad_end_teaches_the_fault(make_repo) -> None:
    texts = [RIGHT] * 9 + [WRONG] * 7
    for number, other in ((3, OTHER), (5, BROKEN), (7, RAISES), (11, OTHER)):
        texts[number] = other
    repo = make_repo([f"{text}# {n}\n" for n, text in enumerate(texts)])
    repo.git("bisect", "start", repo.commits[-1], repo.commits[0])
    mxmoe = f"{sys.executable} -m mxmoe.conformance.commands.main"
    step = f"{mxmoe} bisect-step -c my_kernel.py --check {CHECK} --repeat 1".split()
    said = repo.git("bisect", "run", *step)
    assert f"{repo.commits[9]} is the first bad commit" in said
    assert len(repo.git("worktree", "list").splitlines()) == 1
