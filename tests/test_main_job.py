"""`mxmoe check` on its defaults: the README's first command, and its budgets.

Nightly, and by itself: the budgets are seconds of a machine that does nothing else.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from mxmoe.conformance.rundir import Run
from mxmoe.conformance.rundir import VerdictLine
from mxmoe.conformance.rundir import read_run
from mxmoe.conformance.verdict import Verdict

pytestmark = pytest.mark.nightly

README = (Path(__file__).resolve().parent.parent / "README.md").read_text("utf-8")

# Seconds on two cores, from the design: every check of the level, all candidates.
BYTEWISE_SECONDS = 60
ROUTING_NUMERIC_STATE_SECONDS = 120
RANKS_SECONDS = 60


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Run]:
    """What the command printed, and the run directory that it left."""
    folder = tmp_path_factory.mktemp("main_job")
    code = "from mxmoe.conformance.commands.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "check", "--run-dir", "run"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, read_run(folder / "run")


def seconds(lines: Iterable[VerdictLine]) -> float:
    return sum(line.seconds for line in lines)


def test_it_ends_with_a_table_and_a_verdict(finished: tuple[str, Run]) -> None:
    output, run = finished
    assert output.splitlines()[-1] == run.run["verdict"]
    assert run.run["verdict"].startswith("verdict: PASS ")
    assert run.run["exit_code"] == 0


def test_the_readme_shows_its_verdict_and_table(finished: tuple[str, Run]) -> None:
    output, _ = finished
    shown = re.search(r"tox -e check\n(.*?)```", README, flags=re.DOTALL)
    assert shown is not None
    row = re.compile(
        r"^(?:verdict:|hf_experts|torch_dense|trtllm_gen).*", flags=re.MULTILINE
    )
    # The last column, the worst ratio, varies with the machine.
    rows = [
        [re.sub(r"\s+\S+$", "", line) for line in row.findall(text)]
        for text in (shown[1], output)
    ]
    assert rows[0] == rows[1]


def test_every_level_judged_every_bundled_candidate(finished: tuple[str, Run]) -> None:
    _, run = finished
    judged = {(v.candidate, v.level) for v in run.verdicts if v.verdict.judged}
    levels = ("L0", "L1", "L2", "L3")
    names = ("hf_experts", "torch_dense", "trtllm_gen")
    all_of_them = {(c, n) for c in names for n in levels}
    # transformers' experts know no shards.
    assert judged == all_of_them | {("torch_dense", "L4"), ("trtllm_gen", "L4")}


def test_whatever_did_not_run_says_why(finished: tuple[str, Run]) -> None:
    _, run = finished
    for line in run.verdicts:
        if line.verdict in (Verdict.NOT_RUN, Verdict.UNSUPPORTED):
            assert line.reason, line.check


def test_bytes_stay_within_their_budget(finished: tuple[str, Run]) -> None:
    _, run = finished
    took = seconds(v for v in run.verdicts if v.level in ("L0", "L1"))
    assert took <= BYTEWISE_SECONDS


def test_routing_numbers_and_state_stay_within_their_budget(
    finished: tuple[str, Run],
) -> None:
    _, run = finished
    took = seconds(v for v in run.verdicts if v.level in ("L2", "L3"))
    assert took <= ROUTING_NUMERIC_STATE_SECONDS


def test_ranks_stay_within_their_budget(finished: tuple[str, Run]) -> None:
    """Real processes among them."""
    _, run = finished
    assert seconds(v for v in run.verdicts if v.level == "L4") <= RANKS_SECONDS
