"""Wrong decisions planted in a step and in the driver: each shows from outside.

A search that is right without it comes to another end with it, so that none of these
decisions can go wrong unnoticed by the tests that make such searches.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from mxmoe.evals.bisect import drive as driver
from mxmoe.evals.bisect import history
from mxmoe.evals.bisect import judged
from mxmoe.evals.bisect import step
from mxmoe.evals.bisect.outcome import Outcome
from mxmoe.evals.bisect.outcome import Result
from mxmoe.evals.bisect.request import Request
from mxmoe.evals.bisect.step_code import StepCode
from mxmoe.evals.bisect.warm import import_what_a_judgement_needs

# Passes once more for each time that the culprit is judged after the first.
READS_IT = (
    "/bin/sh",
    "-c",
    "case $(head -1 my_kernel.py) in good*) exit 0;; bad*) exit 1;; "
    "once*) test -e {seen} && exit 0; touch {seen}; exit 1;; *) exit 125;; esac",
)
CULPRIT = 5
Search = Callable[..., tuple[Outcome, int]]


@pytest.fixture
def search(make_repo, tmp_path: Path) -> Search:
    """Of 12 commits with the culprit at 5: the outcome, and the number it names."""

    def run(changed: dict[int, str]) -> tuple[Outcome, int]:
        words = ["bad" if n >= CULPRIT else "good" for n in range(12)]
        for number, word in changed.items():
            words[number] = word
        repo = make_repo([f"{word} # {n}\n" for n, word in enumerate(words)])
        folder = tmp_path / "run"
        folder.mkdir()
        seen = str(tmp_path / "seen")
        asked = driver.Asked(
            good=repo.commits[0],
            bad=repo.commits[-1],
            repo=repo.folder,
            command=tuple(word.replace("{seen}", seen) for word in READS_IT),
            stood=repo.folder,
        )
        outcome = driver.drive(asked, folder)
        return outcome, repo.number(outcome.culprits[0].hash)

    return run


@pytest.mark.parametrize("planted", [False, True], ids=["right", "planted"])
def test_a_commit_that_cannot_be_tested_taken_for_bad(
    search: Search, monkeypatch: pytest.MonkeyPatch, planted: bool
) -> None:
    if planted:
        monkeypatch.setitem(history._WORDS, StepCode.SKIP, "bad")
    outcome, number = search({2: "broken"})
    assert (number == CULPRIT) is not planted
    assert (outcome.result is Result.FOUND) is not planted


@pytest.mark.parametrize("planted", [False, True], ids=["right", "planted"])
def test_a_culprit_that_is_not_judged_again(
    search: Search, monkeypatch: pytest.MonkeyPatch, planted: bool
) -> None:
    if planted:
        monkeypatch.setattr(driver, "_judge_again", lambda *ignored: "")
    outcome, _ = search({CULPRIT: "once"})
    assert outcome.result is (Result.FOUND if planted else Result.AMBIGUOUS)


RIGHT = '''"""One commit."""
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
OTHER = RIGHT.replace("return out", "out[:, 3] += 1; return out")


@pytest.mark.parametrize("planted", [False, True], ids=["right", "planted"])
def test_any_failure_taken_for_the_same_fault(
    make_repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planted: bool
) -> None:
    import_what_a_judgement_needs()
    if planted:
        blind = partial(_without_a_wanted_fault, judged.judge_run)
        monkeypatch.setattr(step, "judge_run", blind)
    repo = make_repo([OTHER, WRONG])
    request = Request(
        candidate="my_kernel.py",
        check="test_output_stays_within_the_bound",
        case="e1k1h32i32/tp1r0/t1/s0",
        repeat=1,
        seconds=30,
    )
    bench = step.Bench(request=request, runs=tmp_path / "r", lesson=tmp_path / "l")
    assert bench.judge(repo.folder, step.BAD_END).code is StepCode.BAD
    repo.git("checkout", "-q", repo.commits[0])
    wanted = StepCode.BAD if planted else StepCode.SKIP
    assert bench.judge(repo.folder, step.BETWEEN).code is wanted


def _without_a_wanted_fault(judge, *given, wanted, **options):
    return judge(*given, wanted=None, **options)
