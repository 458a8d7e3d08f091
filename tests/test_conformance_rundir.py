"""What a run writes can be read back, decides honestly, and harms no terminal."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mxmoe.conformance import read_run
from mxmoe.conformance.cases.case import parse_case
from mxmoe.conformance.cases.designed import make_case_data
from mxmoe.conformance.faults.catalogue import FAULTS
from mxmoe.conformance.faults.plain import PLAIN
from mxmoe.conformance.faults.plain import changed
from mxmoe.conformance.faults.plain import subject_of
from mxmoe.conformance.judging.experts_reached import Reached
from mxmoe.conformance.judging.trial import repeatable_settings
from mxmoe.conformance.judging.trial import trial
from mxmoe.conformance.rundir import Measured
from mxmoe.conformance.rundir import RunWriter
from mxmoe.conformance.rundir import VerdictLine
from mxmoe.conformance.settings import Settings
from mxmoe.conformance.suite.session import Session
from mxmoe.conformance.suite.summary import conclude
from mxmoe.conformance.verdict import ExitCode
from mxmoe.conformance.verdict import Verdict
from mxmoe.reference.errors import BadInput
from mxmoe.reference.moe import moe

FULL = VerdictLine(
    check="test_l3_numbers.py::test_x[mine]",
    candidate="mine",
    level="L3",
    verdict=Verdict.NONFINITE,
    reason="because",
    text="two\nlines \x1b[31m \udc80 \u2028 end",
    case="e1k1h32i32/tp1r0/t1/s0",
    worst=1.5,
    measured=(
        Measured(stage="down", configuration="e1k1h32i32/tp1r0", worst=math.inf),
    ),
    reached=(Reached(where="e4", experts=4, ids=(0, 3)),),
    examples=3,
    notes=("a", "b"),
    seconds=0.25,
    bundle="bundles/0123",
)
OK = replace(FULL, verdict=Verdict.OK, text="", bundle=None)
NOT_RUN = replace(OK, verdict=Verdict.NOT_RUN)
DEEP = pytest.param("[" * 10**5, id="deep")


@pytest.fixture(scope="module")
def settings() -> Iterator[Settings]:
    with repeatable_settings(layers=(0,)) as found:
        yield found


@pytest.fixture
def writer(tmp_path: Path) -> RunWriter:
    found = RunWriter(tmp_path / "run")
    found.describe(command="check")
    return found


def session(*names: str, settings: Settings, requested: bool = True) -> Session:
    subjects = tuple(subject_of(changed(PLAIN, name=name)) for name in names)
    return Session(subjects=subjects, settings=settings, requested=requested)


def test_a_run_reads_back_as_it_was_written(writer: RunWriter) -> None:
    lines = (FULL, OK, replace(OK, worst=math.inf, case=None, examples=None))
    for line in lines:
        writer.verdict(line)
    writer.describe(finished="now")
    run = read_run(writer.folder)
    assert run.verdicts == lines
    assert dict(run.run) == {
        "schema": 1,
        "id": "run",
        "command": "check",
        "finished": "now",
    }


def test_what_is_written_is_json_for_every_reader(writer: RunWriter) -> None:
    """Python's own writer would put Infinity, which JSON does not have."""
    writer.verdict(replace(FULL, worst=math.inf))
    text = (writer.folder / "verdicts.jsonl").read_text()

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert json.loads(text, parse_constant=refuse)["worst"] == "inf"


def test_a_run_without_verdicts_yet_can_be_read(writer: RunWriter) -> None:
    assert read_run(writer.folder).verdicts == ()


def test_a_folder_with_content_is_not_written_into(writer: RunWriter) -> None:
    with pytest.raises(BadInput, match="expected an empty or absent folder"):
        RunWriter(writer.folder)


@pytest.mark.parametrize(
    "text",
    ['{"schema": 2}', '{"schema": "1"}', "{}", "[]", "null", "{", "", DEEP],
)
def test_another_schema_is_refused(text: str, writer: RunWriter) -> None:
    (writer.folder / "run.json").write_text(text)
    with pytest.raises(BadInput, match=r"run\.json: expected (schema 1|JSON), found"):
        read_run(writer.folder)


def test_no_run_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"expected a run directory, found no run\.json"):
        read_run(tmp_path / "none")


@pytest.mark.parametrize(
    "damaged",
    [
        "",
        "{",
        "null",
        "[]",
        "3",
        "{}",
        DEEP,
        '{"verdict": "fine"}',
        '{"verdict": "ok", "notes": []}',
        '{"verdict": "ok", "notes": [], "worst": "large"}',
        '{"verdict": "ok", "notes": [], "worst": null, "extra": 1}',
    ],
)
def test_a_damaged_line_is_refused_with_its_place(
    damaged: str, writer: RunWriter
) -> None:
    writer.verdict(OK)
    with (writer.folder / "verdicts.jsonl").open("a") as file:
        file.write(damaged + "\n")
    writer.verdict(OK)
    with pytest.raises(BadInput, match=r"verdicts\.jsonl:2: expected a verdict, found"):
        read_run(writer.folder)


def test_a_line_cut_off_is_refused(writer: RunWriter) -> None:
    writer.verdict(OK)
    path = writer.folder / "verdicts.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(BadInput, match=r"verdicts\.jsonl:1: "):
        read_run(writer.folder)


def test_bytes_that_are_no_text_are_refused(writer: RunWriter) -> None:
    (writer.folder / "verdicts.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(BadInput, match=r"verdicts\.jsonl: expected verdict lines"):
        read_run(writer.folder)


@pytest.mark.parametrize("name", ["drop_bias_fc2", "nibbles_swapped", "softmax_bf16"])
def test_a_bundle_holds_data_only(
    name: str, settings: Settings, writer: RunWriter
) -> None:
    fault = FAULTS[name]
    found = trial(fault.check, subject_of(fault.plant()), settings)
    evidence = next(o for o in found if o.verdict.failed).judge.record.evidence
    assert evidence is not None
    folder = writer.folder / writer.bundle(*evidence)
    assert folder.parent == writer.folder / "bundles"
    assert {p.name for p in folder.iterdir()} == {"case.json", "tensors.safetensors"}
    facts = json.loads((folder / "case.json").read_text())
    assert facts["check"] == fault.check
    assert facts["verdict"] == "mismatch"
    assert load_file(folder / "tensors.safetensors").keys() == evidence[1].keys()


def test_a_bundle_is_enough_to_rebuild_the_case(
    settings: Settings, writer: RunWriter
) -> None:
    fault = FAULTS["drop_limit"]
    [outcome] = trial(fault.check, subject_of(fault.plant()), settings)
    assert outcome.judge.record.evidence is not None
    folder = writer.folder / writer.bundle(*outcome.judge.record.evidence)
    case = parse_case(json.loads((folder / "case.json").read_text())["case"])
    kept = load_file(folder / "tensors.safetensors")
    data = make_case_data(case)
    assert torch.equal(kept["hidden_states"], data.hidden_states)
    assert torch.equal(kept["routing.ids"], data.routing.ids)
    assert torch.equal(kept["routing.weights"], data.routing.weights)
    truth = moe(
        data.weights, data.config, data.hidden_states, data.routing, shard=case.shard
    )["combine"]
    assert torch.equal(kept["expected"], truth)
    off = (kept["found"].double() - truth).abs() > kept["allowed"]
    assert off.any()


@pytest.mark.parametrize(
    ("verdicts", "pytest_code", "expected"),
    [
        ([Verdict.OK], 0, ExitCode.PASS),
        ([Verdict.QUALITY_NOTE], 0, ExitCode.PASS),
        ([Verdict.OK, Verdict.UNSUPPORTED, Verdict.NOT_RUN], 0, ExitCode.PASS),
        ([Verdict.OK, Verdict.MISMATCH], 1, ExitCode.FAIL),
        ([Verdict.OK, Verdict.NONFINITE], 1, ExitCode.FAIL),
        ([Verdict.CRASH], 1, ExitCode.FAIL),
        ([Verdict.TIMEOUT], 1, ExitCode.FAIL),
        ([Verdict.MISMATCH], 0, ExitCode.FAIL),
        ([], 5, ExitCode.INVALID),
        ([], 0, ExitCode.INVALID),
        ([Verdict.NOT_RUN], 0, ExitCode.INVALID),
        ([Verdict.UNSUPPORTED], 0, ExitCode.INVALID),
        ([Verdict.OK, Verdict.NOT_RUN], 1, ExitCode.INVALID),
        ([Verdict.OK], 2, ExitCode.INVALID),
        ([Verdict.OK, Verdict.MISMATCH], 3, ExitCode.INVALID),
        ([Verdict.OK], 4, ExitCode.INVALID),
    ],
)
def test_a_run_passes_only_if_something_ran_and_nothing_failed(
    verdicts: list[Verdict], pytest_code: int, expected: ExitCode, settings: Settings
) -> None:
    """pytest's codes: 0 ok, 1 failed, 2 interrupted, 3 and 4 broke down, 5 no tests."""
    lines = [replace(OK, verdict=verdict) for verdict in verdicts]
    found = conclude(session("mine", settings=settings), lines, pytest_code, Path("r"))
    assert found.exit_code is expected
    assert found.line.startswith(f"verdict: {expected.name} ")


@pytest.mark.parametrize("requested", [True, False])
def test_an_idle_candidate_spoils_a_run_that_asked_for_it(
    requested: bool, settings: Settings
) -> None:
    both = session("mine", "away", settings=settings, requested=requested)
    lines = [OK, replace(NOT_RUN, candidate="away")]
    found = conclude(both, lines, 0, Path("r"))
    assert "away" in found.line
    assert found.exit_code is (ExitCode.INVALID if requested else ExitCode.PASS)


def test_the_json_summary_counts_per_level(settings: Settings) -> None:
    lines = [OK, replace(FULL, worst=math.inf), replace(NOT_RUN, level="L1")]
    found = conclude(session("mine", settings=settings), lines, 1, Path("r")).as_json()
    assert found["mine"]["L3"] == {
        "ok": 1,
        "failed": 1,
        "expected": 0,
        "idle": 0,
        "worst": "inf",
    }
    assert found["mine"]["L1"] == {
        "ok": 0,
        "failed": 0,
        "expected": 0,
        "idle": 1,
        "worst": 1.5,
    }
    json.dumps(found, allow_nan=False)
