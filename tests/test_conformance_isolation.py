"""A candidate that dies or hangs in its own process is a verdict; the run goes on."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import hypothesis
import pytest

from mxmoe.conformance.bundles.repetitions import Repetition
from mxmoe.conformance.bundles.repetitions import arguments_of
from mxmoe.conformance.cases import search as search_module
from mxmoe.conformance.cases.case import parse_case
from mxmoe.conformance.commands.main import main
from mxmoe.conformance.isolation import host as host_module
from mxmoe.conformance.isolation.host import Losses
from mxmoe.conformance.isolation.judge import IsolatedSubject
from mxmoe.conformance.isolation.judge import judge_of
from mxmoe.conformance.isolation.judge import make_check
from mxmoe.conformance.isolation.opening import child_plan
from mxmoe.conformance.isolation.opening import open_isolated
from mxmoe.conformance.judging.experts_reached import Reached
from mxmoe.conformance.judging.judge import Judge
from mxmoe.conformance.judging.trial import repeatable_settings
from mxmoe.conformance.rundir import read_run
from mxmoe.conformance.settings import Settings
from mxmoe.conformance.verdict import ExitCode
from mxmoe.conformance.verdict import Failure
from mxmoe.conformance.verdict import Verdict
from mxmoe.reference.errors import BadInput

OUTPUT = "test_output_stays_within_the_bound"
ZERO_TOKENS = "test_zero_tokens_give_an_empty_output"
SMALL = "e1k1h32i32/tp1r0/t{}/s0"
CALL_SECONDS = {"hang": 3.0, "loops": 3.0}

# Each does as it is told at four tokens and more, where it dies or hangs.
FILE = """
import ctypes, os, signal
from mxmoe.kernels.torch_dense import candidate as real

class Dying:
    def __init__(self, name, die):
        self.name, self.die = name, die
        self.capabilities = real.capabilities
        self.prepare = real.prepare

    def forward(self, prepared, hidden_states, routing, *, tactic=None):
        if hidden_states.shape[0] > 4:
            self.die()
        return real.forward(prepared, hidden_states, routing)

def native_hang():
    # Native code that hangs does not return for a signal either.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    ctypes.PyDLL(None).sleep(1000)

def loop():
    while True:
        pass

def shout():
    os.write(2, b"kernel.cu:7: Assertion `row < rows` failed.\\n")
    os.abort()

segfault = Dying("segfault", lambda: ctypes.string_at(0))
leaves = Dying("leaves", lambda: os._exit(0))
abort = Dying("abort", shout)
hang = Dying("hang", native_hang)
loops = Dying("loops", loop)
raises = Dying("raises", lambda: 1 // 0)
right = Dying("right", lambda: None)
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dying") / "dying.py"
    path.write_text(textwrap.dedent(FILE), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def settings() -> Iterator[Settings]:
    with repeatable_settings(layers=(0,), examples=12) as found:
        yield replace(found, isolate=True)


@pytest.fixture
def opened(file: Path, settings: Settings) -> Iterator[dict[str, IsolatedSubject]]:
    """Subjects by attribute, opened when they are asked for."""

    class Opened(dict[str, IsolatedSubject]):
        def __missing__(self, name: str) -> IsolatedSubject:
            plan = child_plan(
                checkpoint_folder=settings.checkpoint_folder,
                checkpoint_given=False,
                layers=settings.layers,
                device=None,
                isolate=True,
            )
            spec = f"{file}:{name}"
            self[name] = open_isolated(
                spec, plan, Losses(), call_seconds=CALL_SECONDS.get(name)
            )
            return self[name]

    found = Opened()
    yield found
    for subject in found.values():
        subject.host.close()


def judged(
    subject: IsolatedSubject, settings: Settings, check: str, word: str | None = None
) -> Judge:
    """The judge after `check` has passed; raises what the check raises."""
    if word is not None:
        settings = replace(settings, case=parse_case(word))
    judge = judge_of(subject, settings, check, place="", parameters=())
    repetition = Repetition(check=check)
    make_check(judge, arguments_of(repetition, subject, settings))
    return judge


@pytest.mark.nightly
def test_every_level_is_judged_in_a_child(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "check --isolate --profile dev -c torch_dense --run-dir"
    with pytest.raises(SystemExit) as ended:
        main([*words.split(), str(tmp_path / "run")])
    assert ended.value.code == ExitCode.PASS, capsys.readouterr().out
    judged = {line.level for line in read_run(tmp_path / "run").verdicts}
    assert judged == {"L0", "L1", "L2", "L3", "L4"}


@pytest.mark.parametrize(
    ("name", "verdict", "said"),
    [
        ("segfault", Verdict.CRASH, r"died in forward \(SIGSEGV\)\n  at dying.py"),
        ("leaves", Verdict.CRASH, r"died in forward \(exit code 0\)"),
        ("abort", Verdict.CRASH, r"SIGABRT(.*\n)+  said kernel.cu:7: Assertion `row"),
        ("hang", Verdict.TIMEOUT, r"forward did not return in 3 s\n  at dying.py"),
        ("loops", Verdict.TIMEOUT, r"forward did not return in 3 s"),
        ("raises", Verdict.CRASH, r"raised ZeroDivisionError: .*\n  at dying.py"),
    ],
)
def test_a_death_is_a_verdict_and_the_next_case_is_judged(
    name: str,
    verdict: Verdict,
    said: str,
    opened: dict[str, IsolatedSubject],
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(host_module, "GRACE_SECONDS", 2.0)
    subject = opened[name]
    judged(subject, settings, OUTPUT, SMALL.format(4))
    with pytest.raises(Failure, match=said) as raised:
        judged(subject, settings, OUTPUT, SMALL.format(5))
    assert raised.value.verdict is verdict
    assert raised.value.text.startswith(f"{name} · ")
    assert f"--isolate --case {SMALL.format(5)}" in raised.value.text
    judged(subject, settings, OUTPUT, SMALL.format(4))
    # Only a child that is lost is replaced.
    assert subject.host.losses.count == (name not in ("loops", "raises"))


def test_a_crash_is_shrunk_like_any_failure(
    opened: dict[str, IsolatedSubject],
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(search_module, "SHRINK_SECONDS", 60.0)
    before = hypothesis.settings.get_current_profile_name()
    hypothesis.settings.load_profile("ci")
    try:
        with pytest.raises(Failure) as raised:
            judged(opened["segfault"], settings, OUTPUT)
    finally:
        hypothesis.settings.load_profile(before)
    words = re.search(r"--case (\S+)", raised.value.text)
    assert words is not None
    assert words[1].startswith("e1k1h32i32/tp1r0/t5/s0")


def test_whole_checks_are_made_in_the_child(
    opened: dict[str, IsolatedSubject], settings: Settings
) -> None:
    """A second prepare calls the candidate outside a case."""
    name, place = "test_preparing_again_gives_the_same_bytes", "default-layer0-tp1r0"
    judge = judge_of(opened["right"], settings, name, place=place, parameters=())
    repetition = Repetition(check=name, place=place)
    make_check(judge, arguments_of(repetition, opened["right"], settings))


def test_errors_in_the_child_are_known_by_stage_and_configuration(
    opened: dict[str, IsolatedSubject], settings: Settings
) -> None:
    record = judged(opened["right"], settings, OUTPUT, SMALL.format(4)).record
    assert record.worst is not None
    assert record.measured == {("combine", "e1k1h32i32/tp1r0"): record.worst}
    assert record.reached == (Reached(where="e1", experts=1, ids=(0,)),)


def test_state_is_judged_where_it_is(
    opened: dict[str, IsolatedSubject], settings: Settings
) -> None:
    for check in (
        "test_a_second_call_repeats_the_first",
        "test_poisoned_memory_changes_nothing",
        "test_raw_weights_are_freed",
    ):
        judge = judged(opened["right"], settings, check, SMALL.format(4))
        assert judge.record.examples == 1


def test_a_case_costs_little_more_than_in_one_process(
    opened: dict[str, IsolatedSubject], settings: Settings
) -> None:
    """Without a restart: messages, not a new process."""
    subject = opened["right"]
    judged(subject, settings, ZERO_TOKENS, SMALL.format(0))
    begun = time.perf_counter()
    for _ in range(20):
        judged(subject, settings, ZERO_TOKENS, SMALL.format(0))
    assert (time.perf_counter() - begun) / 20 < 0.2  # a process: seconds


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("import ctypes; ctypes.string_at(0)", r"died in load \(SIGSEGV\)"),
        ("import os; os._exit(3)", r"died in load \(exit code 3\)"),
        ("1 // 0", "failed to import it: ZeroDivisionError"),
    ],
)
def test_an_import_that_dies_is_bad_input(
    body: str, sentence: str, tmp_path: Path, settings: Settings
) -> None:
    (tmp_path / "fatal.py").write_text(body, encoding="utf-8")
    plan = child_plan(
        checkpoint_folder=settings.checkpoint_folder,
        checkpoint_given=False,
        layers=(0,),
        device=None,
        isolate=True,
    )
    with pytest.raises(BadInput, match=sentence) as raised:
        open_isolated(f"{tmp_path / 'fatal.py'}:candidate", plan, Losses())
    assert "\n" not in str(raised.value)


@pytest.mark.nightly
def test_a_run_begins_no_further_check_when_too_many_were_lost(
    file: Path, tmp_path: Path
) -> None:
    code = (
        "import mxmoe.conformance.isolation.host as host\n"
        "import mxmoe.conformance.isolation.judge as judge\n"
        "from mxmoe.conformance.commands.main import main\n"
        "host.LOST_PER_RUN = judge.LOST_PER_CHECK = 1\n"
        "main()"
    )
    words = f"check --isolate --profile dev -c {file}:segfault --run-dir run -k"
    done = subprocess.run(
        [sys.executable, "-c", code, *words.split(), "test_the_input or test_poisoned"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAILED test_the_input_is_not_modified[segfault]" in done.stdout
    assert re.search(
        r"not run: segfault L3: processes of candidates were lost \d+ times",
        done.stdout,
    )
    assert "verdict: FAIL segfault: 1 of 1 checks failed" in done.stdout
