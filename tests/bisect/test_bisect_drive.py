"""`mxmoe bisect` with a cheap command: which commit is named, and what is left behind.

The command reads the word in the candidate's file: good, bad, or what it cannot test.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mxmoe.conformance.commands.main import main
from mxmoe.evals.bisect.drive import Asked
from mxmoe.evals.bisect.drive import drive
from mxmoe.evals.bisect.outcome import Outcome
from mxmoe.evals.bisect.outcome import Result
from mxmoe.evals.bisect.step_code import StepCode
from mxmoe.reference.errors import BadInput

MXMOE = (sys.executable, "-m", "mxmoe.conformance.commands.main")
READS_IT = (
    "/bin/sh",
    "-c",
    "case $(head -1 my_kernel.py) in good*) exit 0;; bad*) exit 1;; broken*) exit 125;;"
    " gone*) exit 127;; full*) exit 200;; slow*) sleep 60;; *) exit 3;; esac",
)


def words(count: int, culprit: int, **others: tuple[int, ...]) -> list[str]:
    found = [f"{'bad' if n >= culprit else 'good'} # {n // 2}\n" for n in range(count)]
    for word, numbers in others.items():
        for n in numbers:
            found[n] = f"{word} # {n}\n"
    return found


def bisected(repo, folder: Path, **options) -> Outcome:
    folder.mkdir(exist_ok=True)
    asked = {
        "good": repo.commits[0],
        "bad": repo.commits[-1],
        "repo": repo.folder,
        "command": READS_IT,
        "stood": folder,
    }
    return drive(Asked(**asked | options), folder)


ENDS = [pytest.param(end, marks=pytest.mark.nightly) for end in (1, 63)]


@pytest.mark.parametrize("culprit", [23, *ENDS])
def test_the_culprit_of_64_commits_in_six_steps(
    make_repo, tmp_path: Path, culprit: int
) -> None:
    repo = make_repo(words(64, culprit))
    outcome = bisected(repo, tmp_path / "run")
    assert outcome.result is Result.FOUND
    assert [repo.number(c.hash) for c in outcome.culprits] == [culprit]
    assert outcome.culprits[0].subject == f"Change {culprit}"
    assert outcome.steps <= 6
    # Both ends first; the culprit, then its parent, last.
    roles = [(j.role, repo.number(j.commit.hash)) for j in outcome.judgements]
    assert roles[:2] == [("bad", 63), ("good", 0)]
    assert roles[-2:] == [("again", culprit), ("again", culprit - 1)]


@pytest.mark.parametrize("culprit", [41, *ENDS])
def test_commits_that_cannot_be_tested_are_walked_around(
    make_repo, tmp_path: Path, culprit: int
) -> None:
    near = (culprit - 1, culprit)
    broken = tuple(n for n in range(1, 63) if n % 5 == 2 and n not in near)
    repo = make_repo(words(64, culprit, broken=broken))
    outcome = bisected(repo, tmp_path / "run")
    assert outcome.result is Result.FOUND
    assert repo.number(outcome.culprits[0].hash) == culprit
    assert outcome.steps <= 6 + len(broken)


def test_a_culprit_hidden_by_commits_that_cannot_be_tested_is_one_of_those_named(
    make_repo, tmp_path: Path
) -> None:
    repo = make_repo(words(32, 17, broken=(16, 17, 18)))
    outcome = bisected(repo, tmp_path / "run")
    assert outcome.result is Result.AMBIGUOUS
    assert outcome.result.exit_code == 4
    assert sorted(repo.number(c.hash) for c in outcome.culprits) == [16, 17, 18, 19]
    assert "one of 4" in "\n".join(outcome.lines())


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ({"good": (15,)}, "the bad end"),
        ({"bad": (0,)}, "the good end"),
        ({"good": (15,), "bad": (0,)}, "the good end"),
        ({"broken": (0, 15)}, "cannot be tested"),
    ],
)
def test_wrong_ends_are_said_and_nothing_is_searched(
    make_repo, tmp_path: Path, ends: dict[str, tuple[int, ...]], said: str
) -> None:
    repo = make_repo(words(16, 8, **ends))
    outcome = bisected(repo, tmp_path / "run")
    assert (outcome.result, outcome.steps) == (Result.ENDS, 0)
    assert said in outcome.said
    assert outcome.result.exit_code == 3


@pytest.mark.parametrize("word", ["full", "gone"])
def test_a_machine_that_fails_stops_the_search(
    make_repo, tmp_path: Path, word: str
) -> None:
    repo = make_repo(words(16, 8, **{word: tuple(range(1, 15))}))
    outcome = bisected(repo, tmp_path / "run")
    assert outcome.result is Result.ABORTED
    assert outcome.steps == 0


def test_other_exit_codes_are_bad_as_for_git(make_repo, tmp_path: Path) -> None:
    repo = make_repo([*words(8, 8), "exit with 3\n"])
    outcome = bisected(repo, tmp_path / "run")
    assert repo.number(outcome.culprits[0].hash) == 8


def test_a_step_without_an_end_cannot_be_tested(make_repo, tmp_path: Path) -> None:
    repo = make_repo(words(4, 2, slow=(1,)))
    begun = time.perf_counter()
    outcome = bisected(repo, tmp_path / "run", seconds=0.5)
    assert time.perf_counter() - begun < 30
    assert {repo.number(c.hash) for c in outcome.culprits} == {1, 2}


def once(folder: Path, word: str, first: int, then: int) -> tuple[str]:
    """A command that judges a commit by its first word, and one word's otherwise when
    it is asked again.
    """
    seen, script = folder / "seen", folder / "once.sh"
    script.write_text(
        "#!/bin/sh\nread word rest < my_kernel.py\n"
        f"[ $word = {word} ] || {{ [ $word = good ] && exit 0; exit 1; }}\n"
        f"at=$(git rev-parse HEAD)\ngrep -q $at {seen} 2>/dev/null && exit {then}\n"
        f"echo $at >> {seen}\nexit {first}\n"
    )
    script.chmod(0o755)
    return (str(script),)


def test_a_culprit_that_passes_when_it_is_judged_again_is_one_of_those_named(
    make_repo, tmp_path: Path
) -> None:
    repo = make_repo(words(8, 4, once=(4,)))
    outcome = bisected(repo, tmp_path / "run", command=once(tmp_path, "once", 1, 0))
    assert outcome.result is Result.AMBIGUOUS
    assert {repo.number(c.hash) for c in outcome.culprits} == {4, 5}


@pytest.mark.parametrize("then", [1, 125], ids=["bad", "cannot_be_tested"])
def test_a_flaky_commit_that_passed_does_not_accuse_the_next(
    make_repo, tmp_path: Path, then: int
) -> None:
    repo = make_repo(words(16, 1, once=(7,)))
    outcome = bisected(repo, tmp_path / "run", command=once(tmp_path, "once", 0, then))
    assert outcome.result is Result.FOUND
    assert [repo.number(c.hash) for c in outcome.culprits] == [1]
    between = [j.commit.hash for j in outcome.judgements if j.role == "between"]
    assert repo.commits[7] in between
    assert len(between) == len(set(between))


def test_an_end_that_is_judged_otherwise_again_leaves_the_culprit_unconfirmed(
    make_repo, tmp_path: Path
) -> None:
    repo = make_repo(words(8, 1, once=(0,)))
    outcome = bisected(repo, tmp_path / "run", command=once(tmp_path, "once", 0, 1))
    assert outcome.result is Result.UNCONFIRMED
    assert "judged again, its parent" in outcome.said


def test_the_users_checkout_is_as_it_was(make_repo, tmp_path: Path) -> None:
    repo = make_repo(words(16, 5))
    (repo.folder / "my_kernel.py").write_text("unfinished work\n")
    (repo.folder / "notes").write_text("mine\n")
    before = repo.git("status", "--porcelain=v2", "--branch"), repo.git("reflog")
    assert bisected(repo, tmp_path / "run").result is Result.FOUND
    after = repo.git("status", "--porcelain=v2", "--branch"), repo.git("reflog")
    assert after == before
    assert (repo.folder / "my_kernel.py").read_text() == "unfinished work\n"
    assert len(repo.git("worktree", "list").splitlines()) == 1
    assert repo.git("for-each-ref", "refs/bisect") == ""


def test_what_a_build_leaves_in_tracked_files_does_not_stop_git(
    make_repo, tmp_path: Path
) -> None:
    repo = make_repo(words(16, 5))
    spoils = (
        *READS_IT[:2],
        READS_IT[2].replace("exit", "echo x >> my_kernel.py; exit"),
    )
    outcome = bisected(repo, tmp_path / "run", command=spoils)
    assert repo.number(outcome.culprits[0].hash) == 5


def test_a_run_that_is_gone_on_with_judges_nothing_twice_but_the_proof(
    make_repo, tmp_path: Path
) -> None:
    repo = make_repo(words(32, 9))
    first = bisected(repo, tmp_path / "run")
    lines = (tmp_path / "run" / "steps.jsonl").read_text().splitlines()
    kept = lines[: len(lines) - 3]
    (tmp_path / "run" / "steps.jsonl").write_text("\n".join([*kept, '{"half']))
    second = bisected(repo, tmp_path / "run")
    assert second.culprits == first.culprits
    assert sum(j.known for j in second.judgements) == len(kept)
    third = bisected(repo, tmp_path / "run")
    assert [j.role for j in third.judgements if not j.known] == ["again", "again"]


def test_merges_lead_to_the_commit_of_the_branch(make_repo, tmp_path: Path) -> None:
    repo = make_repo(words(6, 6))
    repo.git("checkout", "-q", "-b", "side", "main~3")
    for n, word in enumerate(("good", "bad", "bad")):
        (repo.folder / "my_kernel.py").write_text(f"{word} # side {n}\n")
        repo.git("commit", "-qam", f"Side {n}")
    repo.git("checkout", "-q", "main")
    repo.git("merge", "-q", "-X", "theirs", "-m", "Merge", "side")
    bad = repo.git("rev-parse", "main").strip()
    outcome = bisected(repo, tmp_path / "a", bad=bad)
    assert (outcome.result, outcome.culprits[0].subject) == (Result.FOUND, "Side 1")
    outcome = bisected(repo, tmp_path / "b", bad=bad, first_parent=True)
    assert (outcome.result, outcome.culprits[0].subject) == (Result.FOUND, "Merge")


def test_ends_in_the_wrong_order_are_said(make_repo, tmp_path: Path) -> None:
    repo = make_repo(words(8, 4))
    good, bad = repo.commits[-1], repo.commits[0]
    outcome = bisected(repo, tmp_path / "run", good=good, bad=bad)
    assert outcome.result is Result.ENDS
    with pytest.raises(BadInput, match="two commits"):
        bisected(repo, tmp_path / "run", good=good, bad=good)


def test_the_command_prints_a_line_a_commit_and_one_json_document(
    make_repo, tmp_path: Path, capsys
) -> None:
    repo = make_repo(words(8, 3), subject=" \x1b]0;owned\x07[bold]")
    run = tmp_path / "run"
    arguments = ("main~7", "main", "--repo", str(repo.folder), "--run-dir", str(run))
    with pytest.raises(SystemExit) as ended:
        main(["bisect", *arguments, "--json", "--", *READS_IT])
    assert ended.value.code == 0
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert document["culprits"][0]["hash"] == repo.commits[3]
    assert document["result"] == "found"
    assert "\x1b" not in printed.err
    assert "\\x1b]0;owned\\x07[bold]" in printed.err
    assert "verdict: FOUND" in printed.err.splitlines()[-1]
    assert json.loads((run / "run.json").read_text())["result"] == "found"
    assert f"git bisect good {repo.commits[2]}" in (run / "bisect.log").read_text()


@pytest.mark.nightly  # 5 s of imports each
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_bisection_leaves_nothing_running_and_no_tree(
    make_repo, tmp_path: Path, number: signal.Signals
) -> None:
    repo = make_repo(words(8, 3))
    pid = tmp_path / "pid"
    command = ["/bin/sh", "-c", f"echo $$ > {pid}.part; mv {pid}.part {pid}; sleep 60"]
    process = subprocess.Popen(
        [
            *MXMOE,
            "bisect",
            "main~7",
            "main",
            "--repo",
            str(repo.folder),
            "--",
            *command,
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONSAFEPATH": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(600):
            if pid.exists():
                break
            time.sleep(0.1)
        process.send_signal(number)
        assert process.wait(30) == 3
    finally:
        process.kill()
        process.wait()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
    assert len(repo.git("worktree", "list").splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["main", "nowhere", "--", "true"], "'nowhere': expected a commit"),
        (["main~1", "main"], "expected -- and a command"),
        (["main~1", "main", "--", "no_such_program"], "expected a program"),
        (["main"], "expected GOOD, BAD"),
        (["--layers"], "expected --candidate"),
    ],
)
def test_wrong_usage_is_one_sentence(
    make_repo, capsys, monkeypatch, arguments: list[str], said: str
) -> None:
    repo = make_repo(words(2, 1))
    monkeypatch.chdir(repo.folder)
    with pytest.raises(SystemExit) as stopped:
        main(["bisect", *arguments])
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


def test_exit_codes_have_their_meaning() -> None:
    assert [int(code) for code in StepCode] == [0, 1, 125, 128, 129, 130]
