"""Faults in one layer, expert and row of the trained model are named exactly."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra 'hf'")

from mxmoe.conformance.faults.plain import subject_of
from mxmoe.conformance.registry import load_candidate
from mxmoe.conformance.subject import Subject
from mxmoe.conformance.verdict import ExitCode
from mxmoe.evals.gate.planted import plant
from mxmoe.evals.grade_school import frozen
from mxmoe.evals.grade_school.model import FOLDER
from mxmoe.evals.inside.experts import CandidateExperts
from mxmoe.evals.inside.experts import PreparedLayer
from mxmoe.evals.inside.load import load
from mxmoe.evals.inside.swap import put_swappable
from mxmoe.evals.locate.cause import Cause
from mxmoe.evals.locate.causes import causes
from mxmoe.evals.locate.evaluations import Evaluations
from mxmoe.evals.locate.layer import LayerResult
from mxmoe.evals.locate.layer import judge_layer
from mxmoe.evals.locate.layer_under_test import LayerUnderTest
from mxmoe.evals.locate.one_layer import only_in_layer
from mxmoe.evals.locate.recorded_inputs import LayerInputs
from mxmoe.evals.locate.recorded_inputs import record_inputs
from mxmoe.evals.locate.recorded_inputs import with_probes
from mxmoe.evals.locate.run import Options
from mxmoe.evals.locate.run import run_locate
from mxmoe.evals.locate.words import sentence
from mxmoe.reference.checkpoint import open_checkpoint
from mxmoe.reference.types import WHOLE
from mxmoe.reference.types import ExpertWeights

CHECKPOINT = open_checkpoint(FOLDER)
DENSE = load_candidate("torch_dense", device="cpu")
Edit = Callable[[ExpertWeights], None]


@dataclass
class Edited:
    """torch_dense on weights that `edit` has changed, in one layer or in all.

    In a layout of its own, so that only numbers tell; `trace` where it exposes one.
    """

    edit: Edit
    layer: int | None = None
    traced: bool = True
    name: str = "edited"

    def __post_init__(self) -> None:
        self.capabilities = {"arithmetic": "w4a16_fp32acc"}
        if self.traced:
            self.trace = DENSE.candidate.trace

    def prepare(self, weights: ExpertWeights, *rest: Any) -> Any:
        router = None if self.layer is None else CHECKPOINT.layer(self.layer)
        changed = weights.clone()
        if router is None or torch.equal(router.router_weight, weights.router_weight):
            self.edit(changed)
        return DENSE.candidate.prepare(changed, *rest)

    def forward(self, *arguments: Any, tactic: object = None) -> torch.Tensor:
        out: torch.Tensor = DENSE.candidate.forward(*arguments)
        return out


@pytest.fixture(scope="module")
def recorded() -> tuple[LayerInputs, ...]:
    """Of one problem, through the model with the reference inside."""
    loaded = load(FOLDER, dtype=torch.float32, device="cpu")
    swap = put_swappable(loaded, DENSE)
    problem = frozen.load_test_problems()[0]
    ids = loaded.tokenizer(problem.prompt)["input_ids"]
    return tuple(with_probes(layer, 8) for layer in record_inputs(swap, [ids]))


def judged(
    subject: Subject, recorded: Sequence[LayerInputs], number: int = 2
) -> LayerResult:
    weights = CHECKPOINT.layer(number)
    shard = subject.capabilities.align(WHOLE)
    prepared = subject.prepare(weights, CHECKPOINT.config, shard)
    given = subject.call("load", prepared) if subject.has("load") else prepared
    under = LayerUnderTest(
        number=number,
        weights=weights,
        config=CHECKPOINT.config,
        inputs=recorded[number],
        arithmetic=subject.arithmetic,
        experts=CandidateExperts(
            subject=subject,
            layer=lambda: PreparedLayer(weights=prepared, given=given),
            finite=torch.ones((), dtype=torch.bool),
        ),
    )
    return judge_layer(under, Evaluations())


def subject(candidate: object) -> Subject:
    return replace(subject_of(candidate), device_request="cpu")


def place(result: LayerResult, found: Sequence[Cause]) -> tuple[Any, ...]:
    """(stage, expert, column): where the sentence says that it is."""
    at = result.divergence
    assert at is not None
    cause = found[0]
    column = at.column if cause.column is None else cause.column
    return cause.stage or at.stage, at.expert, column


def gate_up_bias(w: ExpertWeights) -> None:
    assert w.gate_up_bias is not None
    w.gate_up_bias[3, 17] += 0.5


def down_bias(w: ExpertWeights) -> None:
    assert w.down_bias is not None
    w.down_bias[5, 100] += 0.25


def gate_up_scale(w: ExpertWeights) -> None:
    w.gate_up_scales[3, 17, 2] += 1


def gate_up_byte(w: ExpertWeights) -> None:
    w.gate_up_blocks[3, 17, 2, 5] ^= 0x30


def down_scale(w: ExpertWeights) -> None:
    w.down_scales[6, 9, 4] -= 1


def down_byte(w: ExpertWeights) -> None:
    w.down_blocks[6, 9, 4, 3] ^= 0x07


PLANTED = [
    (gate_up_bias, ("gate_up", 3, 17), "a bias of 0.55"),
    (down_bias, ("down", 5, 100), "a bias of 7.7"),
    (
        gate_up_scale,
        ("gate_up", 3, 17),
        "K block 2 counts 2 times: its scale byte is 1",
    ),
    (gate_up_byte, ("gate_up", 3, 17), "K block 2, byte 5 (elements 74, 75)"),
    (down_scale, ("down", 6, 9), "K block 4 counts 0.5 times: its scale byte is 1"),
    (down_byte, ("down", 6, 9), "K block 4, byte 3 (elements 134, 135)"),
]
NAMES = [edit.__name__ for edit, _, _ in PLANTED]


@pytest.mark.parametrize(("edit", "where", "why"), PLANTED, ids=NAMES)
def test_one_wrong_entry_is_named_by_the_trace(
    recorded: tuple[LayerInputs, ...], edit: Edit, where: tuple[Any, ...], why: str
) -> None:
    result = judged(subject(Edited(edit)), recorded)
    found = causes(result)
    assert place(result, found) == where
    assert found[0].text.startswith(why)
    at = result.divergence
    assert at is not None
    assert at.experts == (where[1],)
    # The first row that visits the expert.
    ids = recorded[2].routing.ids
    assert [at.row, at.slot] == (ids == where[1]).nonzero()[0].tolist()


@pytest.mark.parametrize(
    ("edit", "where"),
    [(edit, where) for edit, where, _ in PLANTED[:3]],
    ids=NAMES[:3],
)
def test_one_wrong_entry_is_named_without_a_trace(
    recorded: tuple[LayerInputs, ...], edit: Edit, where: tuple[Any, ...]
) -> None:
    result = judged(subject(Edited(edit, traced=False)), recorded)
    assert place(result, causes(result)) == where
    assert "not observable (exposes no trace)" in result.numbers.notes[0]


def test_a_bias_in_another_order_is_called_that(
    recorded: tuple[LayerInputs, ...],
) -> None:
    def shuffled(w: ExpertWeights) -> None:
        assert w.gate_up_bias is not None
        w.gate_up_bias[2] = w.gate_up_bias[2].roll(7)

    result = judged(subject(Edited(shuffled)), recorded)
    (cause,) = causes(result)
    assert place(result, [cause])[:2] == ("gate_up", 2)
    assert cause.text.startswith("gate_up_bias is not in the weights' row order")


def test_wrong_bytes_come_first_where_the_layout_is_known(
    recorded: tuple[LayerInputs, ...],
) -> None:
    base = load_candidate("trtllm_gen", device="cpu")
    faulty = plant("fc1_bias_without_gated_interleave", base)
    result = judged(replace(faulty, device_request="cpu"), recorded)
    text = sentence(result, causes(result))
    assert text.startswith("layer 2, stage gate_up, expert 0, token ")
    assert "bytes differ: fc1_bias of experts 0, 1" in text
    assert "the bias is not in the weights' row order (missing: gated" in text


def test_nan_is_of_the_stage_that_made_it(recorded: tuple[LayerInputs, ...]) -> None:
    def spoil(w: ExpertWeights) -> None:
        assert w.gate_up_bias is not None
        w.gate_up_bias[5, 11] = torch.nan

    result = judged(subject(Edited(spoil)), recorded)
    at = result.divergence
    assert at is not None
    assert (at.stage, at.expert, at.column, at.nonfinite) == ("gate_up", 5, 11, True)
    assert sentence(result, []).endswith("NaN or infinity from finite inputs")


@pytest.mark.parametrize("spec", ["torch_dense", "hf_experts"])
def test_a_right_layer_is_not_blamed(
    recorded: tuple[LayerInputs, ...], spec: str
) -> None:
    assert not judged(load_candidate(spec, device="cpu"), recorded).wrong


def test_a_fault_planted_in_one_layer_is_in_no_other(
    recorded: tuple[LayerInputs, ...],
) -> None:
    faulty = plant("last_slot_dropped", DENSE)
    chosen = only_in_layer(faulty, DENSE, CHECKPOINT, 2)
    one = replace(chosen, device_request="cpu")
    assert not judged(one, recorded, 1).wrong
    result = judged(one, recorded, 2)
    wanted = Cause(text="slot 3 adds nothing", stage="combine", slot=3)
    assert causes(result) == [wanted]


@dataclass
class Counting:
    """torch_dense, whose third `prepare` and fourth corrupt one bias entry each."""

    name: str = "counting"
    prepared: int = 0

    def prepare(self, weights: ExpertWeights, *rest: Any) -> Any:
        self.prepared += 1
        changed = weights.clone()
        if self.prepared in (3, 4):
            gate_up_bias(changed)
        return DENSE.candidate.prepare(changed, *rest)

    def forward(self, *arguments: Any, tactic: object = None) -> torch.Tensor:
        out: torch.Tensor = DENSE.candidate.forward(*arguments)
        return out


# What `run_locate` loads by this file's path.
candidate = Counting()
TOKENS = tuple(range(5, 25))


def test_a_second_wrong_layer_is_reported_too(tmp_path: Path) -> None:
    options = Options(candidate=f"{__file__}:candidate", token_ids=(TOKENS,))
    located = run_locate(options, tmp_path / "run")
    assert located.code is ExitCode.FAIL
    places = [
        (one["layer"], one["stage"], one["expert"], one["column"])
        for one in located.facts["found"]
    ]
    assert places == [(2, "gate_up", 3, 17), (3, "gate_up", 3, 17)]
    assert located.lines[0].startswith("layer 2, stage gate_up, expert 3, ")
    assert located.facts["evaluations"]["layers"] == 4
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["exit_code"] == 1
    assert facts["located"]["found"][0]["layer"] == 2


@pytest.mark.nightly
@pytest.mark.parametrize("spec", ["torch_dense", "trtllm_gen", "hf_experts"])
def test_a_right_candidate_passes(tmp_path: Path, spec: str) -> None:
    located = run_locate(Options(candidate=spec), tmp_path / "run")
    assert located.code is ExitCode.PASS, located.lines


@dataclass
class Forgetful:
    """Right in calls of many tokens, 1.2 times too large in those of one."""

    name: str = "forgetful"

    def prepare(self, *arguments: Any) -> Any:
        return DENSE.candidate.prepare(*arguments)

    def forward(
        self, prepared: Any, x: Any, routing: Any, *, tactic: Any = None
    ) -> Any:
        out = DENSE.candidate.forward(prepared, x, routing)
        return out * 1.2 if len(x) == 1 else out


forgetful = Forgetful()


@pytest.mark.nightly
def test_what_is_wrong_in_calls_of_one_token_only_is_found(tmp_path: Path) -> None:
    options = Options(candidate=f"{__file__}:forgetful", token_ids=(TOKENS,))
    located = run_locate(options, tmp_path / "run")
    assert located.code is ExitCode.FAIL
    said = re.search(r"every wrong row is ([\d.]+) times", located.lines[0])
    assert said is not None
    # The output is rounded to bfloat16.
    assert float(said[1]) == pytest.approx(1.2, rel=2**-9)
    assert "only in a call of one token" in located.lines
