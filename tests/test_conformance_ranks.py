"""Rank checks find what is planted, let pass what is right, and never hang."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mxmoe.conformance.cases.case import Case
from mxmoe.conformance.cases.case import parse_case
from mxmoe.conformance.cases.rank_groups import GROUPS
from mxmoe.conformance.cases.rank_groups import ranks_of
from mxmoe.conformance.faults import processes
from mxmoe.conformance.faults.correct import FORMS
from mxmoe.conformance.faults.correct import NUMERIC
from mxmoe.conformance.faults.plain import PLAIN
from mxmoe.conformance.faults.plain import changed
from mxmoe.conformance.faults.plain import claiming
from mxmoe.conformance.faults.plain import subject_of
from mxmoe.conformance.faults.ranks import laid_out
from mxmoe.conformance.faults.ranks import reducing
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.judging.layer_step import judge_processes
from mxmoe.conformance.judging.layer_step import judge_step
from mxmoe.conformance.judging.trial import checks
from mxmoe.conformance.judging.trial import level_of
from mxmoe.conformance.judging.trial import repeatable_settings
from mxmoe.conformance.judging.trial import trial
from mxmoe.conformance.ranks.blame import blame
from mxmoe.conformance.ranks.journal import Entry
from mxmoe.conformance.ranks.journal import journal_path
from mxmoe.conformance.ranks.journal import read_journal
from mxmoe.conformance.ranks.launch import Launched
from mxmoe.conformance.ranks.launch import launch
from mxmoe.conformance.ranks.plan import LAYER_STEP
from mxmoe.conformance.ranks.plan import Plan
from mxmoe.conformance.registry import load_candidate
from mxmoe.conformance.settings import Settings
from mxmoe.conformance.subject import Subject
from mxmoe.conformance.verdict import Failure
from mxmoe.conformance.verdict import NotJudged
from mxmoe.conformance.verdict import Verdict
from mxmoe.reference.layouts import LAYOUTS
from mxmoe.reference.types import WHOLE
from mxmoe.reference.types import Shard

HERE = processes.__name__
CHECK = "test_layer_step_across_processes_stays_within_the_bound"
CASE = parse_case("e4k2h160i224/tp2r0/t17/s0")
ONE_EXPERT = parse_case("e1k1h160i224/tp2r0/t17/s0")
SECONDS = 2.0


@pytest.fixture(scope="module")
def settings() -> Iterator[Settings]:
    with repeatable_settings(examples=2) as found:
        yield found


def verdicts(candidate: object, settings: Settings) -> dict[str, Verdict]:
    """The verdict of every check of sharding; none may be an alarm."""
    found = {}
    for check in checks():
        if level_of(check) == "L4":
            [outcome] = trial(check, subject_of(candidate), settings)
            assert not outcome.verdict.failed, outcome.text
            found[check] = outcome.verdict
    return found


def few_ranks(shard: Shard, _config: object) -> bool:
    return shard.ep_size == 1 and shard.tp_size <= 4


HONEST = {
    "plain": PLAIN,
    "matrix_unit": NUMERIC["matrix_unit"],
    "bf16_slots": NUMERIC["bf16_slots"],
    "fp32": NUMERIC["fp32"],
    "column_major_output": FORMS["column_major_output"],
    "opaque_weights": FORMS["opaque_weights"],
    "another_alignment": claiming(PLAIN, layout=None, alignment=128),
    "few_ranks": claiming(PLAIN, shards=few_ranks),
}


@pytest.mark.parametrize("name", HONEST)
def test_honest_ranks_pass(name: str, settings: Settings) -> None:
    found = verdicts(HONEST[name], settings)
    assert found["test_each_rank_adds_only_what_it_owns"] is Verdict.OK


@pytest.mark.parametrize("name", LAYOUTS)
def test_ranks_of_every_layout_make_the_checkpoint(
    name: str, settings: Settings
) -> None:
    right = laid_out(lambda name, tensor, index_map: tensor, LAYOUTS[name])
    check = "test_prepared_bytes_of_all_ranks_are_the_checkpoints"
    [outcome] = trial(check, subject_of(right), settings)
    assert outcome.verdict is Verdict.OK, outcome.text


def in_pairs(parts: list[torch.Tensor]) -> torch.Tensor:
    """A tree, each sum rounded to the outputs' dtype."""
    while len(parts) > 1:
        pairs = [sum(parts[n : n + 2]) for n in range(0, len(parts), 2)]
        parts = [pair for pair in pairs if isinstance(pair, torch.Tensor)]
    return parts[0]


@pytest.mark.parametrize(
    "all_reduce",
    [
        in_pairs,
        lambda parts: torch.stack(parts).sum(dim=0),
        lambda parts: torch.stack(parts).float().sum(dim=0),
        lambda parts: in_pairs(parts[::-1]),
    ],
    ids=["tree", "sum", "float32", "reversed"],
)
def test_an_honest_all_reduce_passes(all_reduce, settings: Settings) -> None:
    check = "test_all_reduce_gives_the_sum_of_the_ranks"
    [outcome] = trial(check, subject_of(reducing(all_reduce)), settings)
    assert outcome.verdict is Verdict.OK, outcome.text


def test_a_candidate_without_shards_is_unsupported(settings: Settings) -> None:
    found = verdicts(claiming(PLAIN, shards="whole"), settings)
    assert set(found.values()) == {Verdict.UNSUPPORTED}
    judge = Judge(subject_of(claiming(PLAIN, shards="whole")), settings, CHECK)
    with pytest.raises(NotJudged, match="shards: whole"):
        judge_processes(judge, 2, [CASE])


def test_one_rank_is_not_a_group(settings: Settings) -> None:
    alone = replace(settings, case=replace(CASE, shard=WHOLE))
    found = verdicts(PLAIN, alone)
    assert Verdict.OK not in found.values()


@pytest.mark.parametrize("group", GROUPS, ids=Shard.label)
def test_every_rank_of_a_group_is_at_its_global_rank(group: Shard) -> None:
    ranks = ranks_of(group)
    assert len(set(ranks)) == group.tp_size * group.ep_size
    for number, rank in enumerate(ranks):
        assert rank.ep_rank * rank.tp_size + rank.tp_rank == number


def plan(spec: str, *steps: str, case: Case = CASE) -> Plan:
    return Plan(
        world=2,
        spec=spec,
        device="cpu",
        cases=(str(case),) * len(steps),
        checkpoint="",
        call_seconds=SECONDS,
        parent=os.getpid(),
        layer_steps=steps,
    )


WRONG = {
    "all_reduce_missing": (CASE, "no all_reduce: the rank's own part"),
    "all_reduce_twice": (CASE, "all_reduce done twice (2 times the sum)"),
    "all_reduce_after_residual": (
        CASE,
        "all_reduce after the residual: hidden states added 2 times",
    ),
    LAYER_STEP: (ONE_EXPERT, "rank tp2r1 holds the part of tp2r0"),
}
RIGHT = (LAYER_STEP, "sum_in_float32", "residual_on_rank_0")
WRONG_PART = f"{HERE}:part_of_rank_0_if_one_expert"


@pytest.fixture(scope="module")
def stepped(tmp_path_factory: pytest.TempPathFactory) -> Launched:
    """One launch: each step is one case of it."""
    steps = [f"{HERE}:{n}" if ":" not in n else n for n in (*WRONG, *RIGHT)]
    words = [*(str(case) for case, _ in WRONG.values()), *[str(CASE)] * len(RIGHT)]
    of_each = replace(plan(WRONG_PART, *steps), cases=tuple(words))
    return launch(tmp_path_factory.mktemp("ranks"), of_each)


def judged(settings: Settings, stepped: Launched, number: int, case: Case) -> None:
    judge = Judge(load_candidate(WRONG_PART), settings, CHECK)
    partials, outputs = zip(*stepped.results[number], strict=True)
    judge.one(lambda judge, case: judge_step(judge, case, partials, outputs), case)


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_step_is_found_and_named(
    name: str, settings: Settings, stepped: Launched
) -> None:
    case, says = WRONG[name]
    with pytest.raises(Failure) as caught:
        judged(settings, stepped, list(WRONG).index(name), case)
    text = caught.value.text
    assert caught.value.verdict is Verdict.MISMATCH
    assert ("each rank's partial sum is right" in text) == (name != LAYER_STEP)
    [why] = [line for line in text.splitlines() if line.startswith("why ")]
    assert says in why
    assert text.startswith("plain · layer step, rank 0 of 2 (tp2r0) · ")
    assert text.endswith(f"-k {CHECK} --case {case}")


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_step_passes(name: str, settings: Settings, stepped: Launched) -> None:
    assert stepped.failure is None
    judged(settings, stepped, len(WRONG) + RIGHT.index(name), CASE)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("raises", "rank 1: forward raised RuntimeError: out of workspace [tp2r1]"),
        ("exits", "rank 1: the process died in forward (exit code 3) [tp2r1]"),
    ],
)
def test_a_rank_that_fails_is_named(spec: str, says: str, settings: Settings) -> None:
    subject = load_candidate(f"{HERE}:{spec}", device="cpu")
    judge = Judge(subject, settings, CHECK)
    with pytest.raises(Failure) as caught:
        judge_processes(judge, 2, [CASE], call_seconds=SECONDS)
    assert caught.value.verdict is Verdict.CRASH
    assert says in caught.value.text
    assert caught.value.text.endswith(f" --case {CASE}")


def test_what_real_ranks_computed_is_judged_case_by_case(settings: Settings) -> None:
    """The first case is right; the second fails, and its rank is named."""
    subject = load_candidate(WRONG_PART, device="cpu")
    judge = Judge(subject, settings, CHECK)
    with pytest.raises(Failure) as caught:
        judge_processes(judge, 2, [CASE, ONE_EXPERT])
    assert judge.record.examples == 1
    assert "why    behaves as if: rank tp2r1 holds the part of" in caught.value.text
    assert caught.value.text.endswith(f" --case {ONE_EXPERT}")


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def processes(folder: Path) -> set[int]:
    """Every process of a launch that said its number."""
    journals = [read_journal(journal_path(folder, rank)) for rank in (0, 1)]
    starts = [journal[0].facts for journal in journals if journal]
    return {pid for facts in starts for pid in facts.values()}


@pytest.mark.nightly
def test_a_rank_that_hears_no_signal_is_ended_in_time(tmp_path: Path) -> None:
    started = time.monotonic()
    launched = launch(tmp_path, plan(f"{HERE}:hangs_deaf_to_signals", LAYER_STEP))
    assert time.monotonic() - started < 60
    assert launched.failure is not None
    assert launched.failure.verdict is Verdict.TIMEOUT
    assert launched.failure.rank == 1
    assert "meanwhile: 1 rank in all_reduce" in launched.failure.lines
    assert len(processes(tmp_path)) == 3
    assert not any(map(alive, processes(tmp_path)))


def test_no_rank_outlives_the_process_that_asked(tmp_path: Path) -> None:
    hanging = plan(f"{HERE}:hangs_deaf_to_signals", LAYER_STEP)
    code = (
        "import os, sys; from pathlib import Path; from dataclasses import replace; "
        "from mxmoe.conformance.ranks.launch import launch; "
        "from mxmoe.conformance.ranks.plan import Plan; "
        f"plan = replace({hanging!r}, parent=os.getpid(), call_seconds=500); "
        "launch(Path(sys.argv[1]), plan)"
    )
    asking = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    patience = time.monotonic() + 60
    while not any(e.what == "forward" for e in read_journal(journal_path(tmp_path, 1))):
        assert time.monotonic() < patience
        assert asking.poll() is None
        time.sleep(0.1)
    asking.send_signal(signal.SIGKILL)
    asking.wait()
    found = processes(tmp_path)
    assert len(found) == 3
    while any(map(alive, found)):
        assert time.monotonic() < patience
        time.sleep(0.1)


def entries(*whats: str) -> list[list[Entry]]:
    return [[Entry(what, float(n), 0, {"text": ""})] for n, what in enumerate(whats)]


def test_a_fault_of_the_machinery_is_no_verdict() -> None:
    with pytest.raises(RuntimeError, match="the ranks failed"):
        blame(entries("broken", "all_reduce"), "no report", None)
    with pytest.raises(RuntimeError, match="did not start"):
        blame([[], []], "", 180)


def test_ranks_that_only_wait_are_a_timeout_of_no_rank() -> None:
    failure = blame(entries("all_reduce", "barrier"), "", 7.0)
    assert failure.verdict is Verdict.TIMEOUT
    assert failure.rank is None
    assert "1 rank in all_reduce, 1 rank in barrier" in failure.lines[0]


def test_a_rank_that_torchrun_ended_is_not_blamed() -> None:
    said = """
      [1]:
        rank      : 0 (local_rank: 0)
        exitcode  : -15 (pid: 11)
      Root Cause (first observed failure):
      [0]:
        rank      : 1 (local_rank: 1)
        exitcode  : -9 (pid: 12)
    """
    failure = blame(entries("forward", "forward"), said, None)
    assert failure.rank == 1
    assert "SIGKILL" in failure.lines[0]


def test_a_candidate_needs_a_gpu_for_each_rank(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = Subject(
        spec="mine",
        name="mine",
        candidate=changed(PLAIN),
        capabilities=subject_of(PLAIN).capabilities,
        device_request="cuda",
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(NotJudged, match=r"needs 2 GPUs.*this machine has 1"):
        judge_processes(Judge(subject, settings, CHECK), 2, [CASE])
