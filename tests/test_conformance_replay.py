"""A bundle repeats its failure: same inputs, same text; data only."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from safetensors.torch import save_file

from mxmoe.conformance.bundles.bundle import write_bundle
from mxmoe.conformance.bundles.repetitions import Repetition
from mxmoe.conformance.bundles.repetitions import arguments_of
from mxmoe.conformance.bundles.replay import run_replay
from mxmoe.conformance.cases.case import parse_case
from mxmoe.conformance.cases.embedded import write_checkpoint
from mxmoe.conformance.commands.main import main
from mxmoe.conformance.isolation.judge import judge_of
from mxmoe.conformance.isolation.judge import make_check
from mxmoe.conformance.registry import load_candidate
from mxmoe.conformance.rundir import RunWriter
from mxmoe.conformance.settings import Settings
from mxmoe.conformance.verdict import ExitCode
from mxmoe.conformance.verdict import Failure
from mxmoe.reference.errors import BadInput

# The down bias is lost in `prepare`: wrong bytes and wrong numbers.
FILE = """
import torch
from mxmoe.kernels.torch_dense import candidate as real

class Faulty:
    name = "faulty"
    capabilities = real.capabilities
    forward = staticmethod(real.forward)

    def prepare(self, weights, config, shard, device):
        prepared = dict(real.prepare(weights, config, shard, device))
        prepared["down_bias"] = torch.zeros_like(prepared["down_bias"])
        return prepared

candidate = Faulty()
"""
PLACES = {
    "test_output_stays_within_the_bound": "",
    "test_layer_output_stays_within_the_bound": "mini-layer0-yours-yours",
    "test_prepared_bytes_match_the_layout": "mini-layer0-tp1r0-down_bias",
    "test_drawn_layers_match_the_layout": "",
}
CHECKS = tuple(PLACES)
pytestmark = pytest.mark.usefixtures("one_thread")

Failed = dict[str, tuple[Path, str]]


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Failed:
    """Bundle and text of one failure of each check; the checkpoint has gone since."""
    folder = tmp_path_factory.mktemp("replay")
    (folder / "faulty.py").write_text(FILE, encoding="utf-8")
    write_checkpoint(folder / "mini", layers=1)
    subject = load_candidate(f"{folder / 'faulty.py'}:candidate")
    found: Failed = {}
    for check, place in PLACES.items():
        settings = Settings(
            checkpoint_folder=folder / "mini",
            checkpoint_given=True,
            layers=(0,),
            seconds_per_check=1.0,
            case=None if place else parse_case("e4k2h64i96/tp1r0/t5/s3"),
            run=RunWriter(folder / check),
        )
        judge = judge_of(subject, settings, check, place=place, parameters=())
        repetition = Repetition(check=check, place=place)
        arguments = arguments_of(repetition, subject, settings)
        with pytest.raises(Failure) as raised:
            make_check(judge, arguments)
        bundle = write_bundle(judge)
        assert bundle is not None
        found[check] = folder / check / bundle, raised.value.text
    shutil.rmtree(folder / "mini")
    return found


@pytest.fixture
def bundle(failed: Failed, tmp_path: Path) -> Path:
    """A bundle that a test may change."""
    copy = tmp_path / "bundle"
    shutil.copytree(failed[CHECKS[0]][0], copy)
    return copy


@pytest.mark.parametrize("check", CHECKS)
def test_a_bundle_repeats_its_failure(
    check: str, failed: Failed, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, text = failed[check]
    assert run_replay(folder) is ExitCode.FAIL
    expected = f"{text}\nverdict: FAIL faulty: {check} fails as it did\n"
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize("check", CHECKS)
def test_a_right_candidate_passes_now(
    check: str, failed: Failed, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = failed[check]
    assert run_replay(folder, candidate="torch_dense") is ExitCode.PASS
    said = capsys.readouterr().out
    assert said == f"verdict: PASS torch_dense: {check} passes now\n"


def test_a_child_reads_the_bundle_itself(
    failed: Failed, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, text = failed[CHECKS[1]]
    assert run_replay(folder, isolate=True) is ExitCode.FAIL
    said = capsys.readouterr().out
    assert said.splitlines()[:4] == text.splitlines()[:4]


def test_the_inputs_come_from_the_bundle_and_not_from_the_seed(bundle: Path) -> None:
    """Without a down bias there, the fault makes no difference."""
    path = bundle / "inputs.safetensors"
    tensors = load_file(path)
    assert tensors["weights.down_bias"].any()
    tensors["weights.down_bias"] = torch.zeros_like(tensors["weights.down_bias"])
    save_file(tensors, path)
    assert run_replay(bundle) is ExitCode.PASS


def test_a_program_reads_one_document(
    failed: Failed, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = failed[CHECKS[0]]
    assert run_replay(folder, as_json=True) is ExitCode.FAIL
    found = json.loads(capsys.readouterr().out)
    assert (found["now"], found["exit_code"]) == ("mismatch", 1)


@pytest.mark.parametrize(
    ("fact", "value", "sentence"),
    [
        ("schema", 2, "expected schema 1, found 2"),
        ("check", "test_nothing", "expected the name of a check"),
        ("check", "../x", "expected the name of a check"),
        ("check", None, "check: expected a text, found None"),
        ("case", "e1", "case: expected"),
        ("verdict", "fine", "expected a bundle, found 'fine' is not a valid Verdict"),
        ("layers", ["a"], "expected a bundle, found invalid literal"),
        ("parameters", [], "expected a bundle, found"),
        ("inputs", {}, "expected a field 'kind', found none"),
    ],
)
def test_a_damaged_description_is_refused_in_one_sentence(
    fact: str, value: object, sentence: str, bundle: Path
) -> None:
    path = bundle / "case.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {fact: value}))
    with pytest.raises(BadInput, match=sentence) as raised:
        run_replay(bundle)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 10**5, "{}"])
def test_what_is_no_bundle_is_refused(text: str, bundle: Path) -> None:
    (bundle / "case.json").write_text(text)
    with pytest.raises(BadInput, match=r"case\.json: expected (JSON|schema 1), found"):
        run_replay(bundle)
    (bundle / "case.json").unlink()
    with pytest.raises(BadInput, match=r"expected a bundle, found no case\.json"):
        run_replay(bundle)


def test_damaged_inputs_are_refused(bundle: Path) -> None:
    path = bundle / "inputs.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"hidden_states": torch.zeros(1, 1)}, path)
    with pytest.raises(BadInput, match=r"expected a tensor hidden_states \["):
        run_replay(bundle)
    save_file({n: t for n, t in tensors.items() if "gate_up_blocks" not in n}, path)
    with pytest.raises(BadInput, match="gate_up_blocks"):
        run_replay(bundle)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(BadInput, match="expected a whole safetensors file, found"):
        run_replay(bundle)
    path.unlink()
    with pytest.raises(BadInput, match="expected a whole safetensors file, found"):
        run_replay(bundle)


# Each token after one whose first column is large is a little larger: within the bound.
LAWLESS = """
import torch
from mxmoe.kernels.torch_dense import candidate as real

class candidate:
    name = "lawless"
    capabilities = real.capabilities
    prepare = staticmethod(real.prepare)

    @staticmethod
    def forward(prepared, x, routing, *, tactic=None):
        out = real.forward(prepared, x, routing)
        if len(x) > 1:
            out[1:] += (x[:-1, :1].abs() > 1).to(out.dtype) * out[1:].abs() * 2**-8
        return out
"""


def test_a_law_broken_in_a_child_repeats_from_its_bundle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lawless.py").write_text(LAWLESS, encoding="utf-8")
    spec, run = f"{tmp_path / 'lawless.py'}:candidate", tmp_path / "run"
    words = f"check --isolate --profile dev -c {spec} -k down_negates --run-dir {run}"
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    assert ended.value.code == ExitCode.FAIL, capsys.readouterr().out
    assert (
        "broken law: negating W2 and b2 negates the output" in capsys.readouterr().out
    )
    (folder,) = (run / "bundles").iterdir()
    assert run_replay(folder) is ExitCode.FAIL
    assert "test_law_holds fails as it did" in capsys.readouterr().out
    assert run_replay(folder, candidate="torch_dense") is ExitCode.PASS
