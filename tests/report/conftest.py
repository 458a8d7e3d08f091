"""Run directories to report on: one of each kind, and the same with hostile text."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import asdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mxmoe.conformance.rundir import Measured
from mxmoe.conformance.rundir import RunWriter
from mxmoe.conformance.rundir import VerdictLine
from mxmoe.conformance.verdict import Verdict
from mxmoe.evals.gate.answer_lines import AnswerLine
from mxmoe.evals.gate.answer_lines import append_answer
from mxmoe.evals.gate.comparison import Comparison
from mxmoe.evals.gate.flips import Flip
from mxmoe.evals.gate.order import registered_order
from mxmoe.evals.gate.paired import compare_paired
from mxmoe.evals.gate.rule import Rule

Runs = dict[str, Path]
Hostile = dict[str, str]

RULE = Rule(40, 30)
ORDER = registered_order(RULE.asked, seed=0)
WHY = "fc1_bias: missing: row shuffle 32\n       fc1_weights: as specified"
TEXT = f"wrong · fc1_bias · e2\n3 of 9 differ\nwhy    {WHY}\nagain  mxmoe check -k x"
OK = VerdictLine(
    check="test_l3_numbers.py::test_output_stays_within_the_bound[right]",
    candidate="right",
    level="L3",
    verdict=Verdict.OK,
    worst=0.5,
    measured=(
        Measured(stage="combine", configuration="e4k2h64i96/tp1r0", worst=0.25),
        Measured(stage="combine", configuration="e4k2h64i96/tp2r1", worst=0.5),
    ),
    seconds=1.0,
)
LAYER = "test_l3_numbers.py::test_layer_output_stays_within_the_bound[wrong-layer0-"


def facts(name: str, spec: str, **others: Any) -> dict[str, Any]:
    found = {"name": name, "spec": spec, "arithmetic": "fp32", "execution": "native"}
    return found | {"layout": None, "device": "cpu", "unavailable": None} | others


def check_run(
    folder: Path, candidates: Sequence[Mapping[str, Any]], lines: Sequence[VerdictLine]
) -> Path:
    writer = RunWriter(folder)
    for line in lines:
        writer.verdict(line)
    failed = any(line.verdict.failed for line in lines)
    word = "FAIL" if failed else "PASS"
    writer.describe(
        command="check", candidates=list(candidates), verdict=f"verdict: {word} it"
    )
    return folder


def gate_run(
    folder: Path,
    right: Sequence[bool],
    *,
    text: str = "#### 4",
    verdict: str = "",
    **options: Any,
) -> Path:
    """A gate whose answers, in the registered order, are `right`."""
    writer = RunWriter(folder)
    word = "pass" if sum(right) >= RULE.least_correct else "fail"
    writer.describe(
        command="gate",
        started=f"2026-01-01T{folder.name[-2:]}",
        options={"candidate": "right", "fault": None, "full": True} | options,
        rule=asdict(RULE),
        protocol={"order_seed": 0, "task": "grade_school"},
        verdict=verdict or word,
        reasons=[f"{sum(right)} of {len(right)} correct", text],
    )
    for question, correct in zip(ORDER, right, strict=False):
        line = AnswerLine(
            question=question,
            prompt_sha256="0",
            text=text,
            extracted=text,
            correct=correct,
            tokens=3,
            finish_reason="stop",
            finite=True,
            seconds=0.1,
        )
        append_answer(folder, line)
    return folder


def faults_run(folder: Path, names: Sequence[str]) -> Path:
    RunWriter(folder).describe(command="faults", verdict="verdict: PASS 1 of 1")
    check = "test_output_stays_within_the_bound"
    with (folder / "faults.jsonl").open("w", encoding="ascii") as file:
        for number, name in enumerate(names):
            caught = number != 1
            kill = {
                "fault": name,
                "base": name,
                "level": "L3",
                "seed": 0,
                "checks": {check: "caught" if caught else "passed"},
                "first": check if caught else None,
                "seconds": 0.25,
                "reason": "",
                "survived": not caught,
            }
            file.write(json.dumps(kill) + "\n")
    return folder


def bench_run(folder: Path, names: Sequence[str]) -> Path:
    def figures(name: str, tokens: int) -> dict[str, Any]:
        if name == "refused":
            return {"refused": f"out of bound: {names[0]}"}
        time = 10.0 + tokens
        shape = {"median_us": time, "quartile1_us": time - 1, "quartile3_us": time + 1}
        return shape | {"floor_fraction": 0.5, "tflops": tokens / 10}

    rows = [
        {
            "tokens": tokens,
            "experts": 4,
            "weight_bytes": 1e6,
            "flops": 1e7 * tokens,
            "floor_us": 5.0,
            "contestants": {n: figures(n, tokens) for n in (*names, "refused")},
        }
        for tokens in (1, 64)
    ]
    RunWriter(folder).describe(
        command="bench moe",
        candidate=names[0],
        shape=names[0],
        device="an accelerator",
        ceilings={"copy_bytes_per_second": 1e12, "matmul_flops_per_second": 1e14},
        contestants={name: {} for name in (*names, "refused")},
        rows=rows,
    )
    return folder


def byte_bundle(writer: RunWriter) -> tuple[str, torch.Tensor]:
    """Rows in another order; also that order."""
    torch.manual_seed(0)
    expected = torch.randint(0, 256, (2, 64, 16), dtype=torch.uint8)
    order = torch.randperm(64)
    tensors = {"found": expected[:, order], "expected": expected}
    return writer.bundle({"of": "bytes"}, tensors), order


def number_bundle(writer: RunWriter) -> str:
    """Expert 2 of 4 is wrong by 5 bounds, in the last quarter of the columns."""
    ids = torch.tensor([[0, 1], [2, 0], [3, 1], [2, 3]], dtype=torch.int32)
    expected = torch.zeros(4, 32)
    found, allowed = expected + 0.25, torch.ones(4, 32)
    found[(ids == 2).any(dim=1), 24:] = 5.0
    tensors = {"found": found, "expected": expected, "allowed": allowed}
    return writer.bundle({"of": "numbers"}, tensors | {"routing.ids": ids})


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """By name: right, wrong, gate (20 nights: gate00 ...), faults, bench, locate,
    compare, bisect."""
    root = tmp_path_factory.mktemp("runs")
    away = replace(
        OK, verdict=Verdict.NOT_RUN, reason="declares no tactics", worst=None
    )
    made = {"right": check_run(root / "right", [facts("right", "right")], [OK, away])}
    made["wrong"] = wrong_run(root / "wrong")
    for night in range(20):
        lost = 12 if night >= 15 else night % 2
        right = [number >= lost for number in range(RULE.asked)]
        made[f"gate{night:02d}"] = gate_run(root / f"gate{night:02d}", right)
    made["faults"] = faults_run(root / "faults", ["a_fault", "another_fault"])
    made["bench"] = bench_run(root / "bench", ["ours", "theirs"])
    made["locate"] = locate_run(root / "locate", "found")
    made["compare"] = compare_run(root / "compare", "night")
    RunWriter(root / "bisect").describe(
        command="bisect", verdict="verdict: FAIL", steps=[{"layer": 3, "ok": False}]
    )
    made["bisect"] = root / "bisect"
    return made


def locate_run(folder: Path, text: str) -> Path:
    """Something found in layer 2 of a candidate of that name, with a bundle."""
    writer = RunWriter(folder)
    bundle = number_bundle(writer)
    path = {"layer": 2, "stage": text, "expert": 1, "prompt": 0, "token": 5}
    path |= {"slot": None, "column": 7}
    lines = [text, "the evidence", f"again  mxmoe locate -c {text}"]
    writer.describe(
        command="locate",
        options={"candidate": text, "fault": None},
        exit_code=1,
        verdict=text,
        located={
            "found": [path | {"why": [text], "experts": [1, 3, 4]}],
            "lines": lines,
            "bundle": bundle,
            "evaluations": {"model_passes": 4, "layers": 1, "masked": 4},
            "not_observed": [text],
        },
    )
    return folder


def compare_run(folder: Path, text: str) -> Path:
    """A run of that name that lost question 5 and nothing else."""
    paired = compare_paired({"5": True, "6": True}, {"5": False, "6": True})
    answers = {"asked": text, "baseline": text, "run": text}
    found = Comparison(
        baselines=(Path(text),),
        run=Path(text),
        crossed=(text,),
        notes=(text,),
        paired=paired,
        flips=(Flip(question=5, lost=True, **answers),),
    )
    RunWriter(folder).describe(
        command="compare", verdict=text, compared=found.as_json()
    )
    return folder


def wrong_run(folder: Path) -> Path:
    writer = RunWriter(folder)
    writer.describe(
        command="check",
        candidates=[
            facts("wrong", "wrong.py:c"),
            facts("away", "away", unavailable="no"),
        ],
        verdict="verdict: FAIL wrong",
    )
    bundle, _ = byte_bundle(writer)
    failed = replace(
        OK,
        candidate="wrong",
        verdict=Verdict.MISMATCH,
        text=TEXT,
        measured=(),
        worst=None,
    )
    places = ("layer0-tp1r0-fc1_bias", "layer0-tp8r7-fc1_bias")
    for place in places:
        check = f"test_l1_bytes.py::test_prepared_bytes_match_the_layout[wrong-{place}]"
        writer.verdict(replace(failed, check=check, level="L1", bundle=bundle))
    beyond = (Measured(stage="gate_up", configuration="layer0/tp1r0", worst=5.0),)
    blamed = "attribution: your kernel is right, your bytes are wrong"
    writer.verdict(
        replace(
            failed,
            check=f"{LAYER}yours-yours]",
            text=f"wrong · output\ntoken 1\n{blamed}",
            measured=beyond,
            worst=5.0,
            bundle=number_bundle(writer),
        )
    )
    writer.verdict(replace(OK, check=f"{LAYER}ours-yours]", candidate="wrong"))
    return folder


@pytest.fixture(scope="session")
def hostile_runs(
    hostile: Hostile, tmp_path_factory: pytest.TempPathFactory
) -> list[Path]:
    """Every string of the corpus in every place that text can come from."""
    root = tmp_path_factory.mktemp("<b>runs & `x` | @y")
    texts = list(hostile.values())
    candidates = [facts(text, text, layout=text, unavailable=text) for text in texts]
    lines = [line for text in texts for line in hostile_lines(text)]
    options = {"candidate": texts[0], "fault": texts[1]}
    found = [
        check_run(root / "check", candidates, lines),
        faults_run(root / "faults", texts),
        bench_run(root / "bench", texts[:6]),
    ]
    for number, text in enumerate(texts):
        right = [False] * 3
        found.insert(0, compare_run(root / f"compare{number:02d}", text))
        found.insert(0, locate_run(root / f"locate{number:02d}", text))
        gate = root / f"gate{number:02d}"
        found.append(gate_run(gate, right, text=text, verdict=text, **options))
    RunWriter(root / "other").describe(
        command=texts[0], verdict=texts[1], records=[{t: t} for t in texts], plain=texts
    )
    return [*found, root / "other"]


def hostile_lines(text: str) -> list[VerdictLine]:
    failed = VerdictLine(
        check=f"test_x.py::test_{text}[{text}]",
        candidate=text,
        level="L3",
        verdict=Verdict.MISMATCH,
        reason=text,
        text=f"{text}\n{text}\nwhy    {text}\nagain  {text}\nattribution: {text}",
        case=text,
        notes=(text,),
        bundle=text,
        measured=(Measured(stage=text, configuration=text, worst=2.0),),
    )
    return [
        failed,
        replace(failed, level=text),
        replace(failed, verdict=Verdict.NOT_RUN, text="", notes=()),
    ]


@pytest.fixture
def copied(runs: Runs, tmp_path: Path) -> Callable[..., Path]:
    """A copy of a run with other facts.

    candidates : facts that are changed of each. bundles : the folder that its lines
    name instead of their own.
    """

    def make(
        name: str,
        *,
        candidates: Mapping[str, Any] | None = None,
        bundles: str | None = None,
        **others: Any,
    ) -> Path:
        folder = tmp_path / "copy"
        shutil.copytree(runs[name], folder)
        found = json.loads((folder / "run.json").read_text()) | others
        for one in found["candidates"]:
            one |= candidates or {}
        (folder / "run.json").write_text(json.dumps(found))
        if bundles is not None:
            shutil.copytree(folder / "bundles", tmp_path / "bundles")
            shutil.rmtree(folder / "bundles")
            lines = (folder / "verdicts.jsonl").read_text()
            (folder / "verdicts.jsonl").write_text(lines.replace("bundles/", bundles))
        return folder

    return make
