"""Whatever is wrong with the input: one sentence, exit code 2, nothing judged."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from safetensors.torch import save_file

from mxmoe.conformance.cases.embedded import write_checkpoint
from mxmoe.conformance.commands.main import main
from mxmoe.conformance.verdict import ExitCode
from mxmoe.reference.layouts import LAYOUTS


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one sentence that the command refuses `arguments` with."""
    with pytest.raises(SystemExit) as stopped:
        main(["check", *map(str, arguments)])
    printed = capsys.readouterr()
    assert stopped.value.code == ExitCode.USAGE, printed
    assert printed.err.startswith("mxmoe: error: "), printed
    assert printed.err.count("\n") == 1, "one sentence"
    assert "Traceback" not in printed.err
    return printed.err.removeprefix("mxmoe: error: ").strip()


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], str]:
    """Writes a candidate file; returns its ``path:candidate``."""

    def write_file(text: str) -> str:
        path = tmp_path / "mine.py"
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return f"{path}:candidate"

    return write_file


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "made"
    write_checkpoint(folder)
    return folder


GOOD_FORWARD = """
    def forward(self, prepared, hidden_states, routing):
        return hidden_states
"""

BAD_CANDIDATES = {
    "no name": (
        "class candidate:" + GOOD_FORWARD,
        "name: expected 1 to 80 printable characters, found None",
    ),
    "neither prepare nor forward": (
        "class candidate:\n    name = 'x'",
        "expected prepare(weights, config, shard, device) or "
        "forward(prepared, hidden_states, routing), found neither",
    ),
    "wrong signature": (
        """
        class candidate:
            name = 'x'
            def forward(self, hidden_states): return hidden_states
        """,
        "expected forward(prepared, hidden_states, routing), "
        "found forward(hidden_states)",
    ),
    "raises when constructed": (
        """
        class candidate:
            name = 'x'
            def __init__(self): raise OSError('no driver')
            def forward(self, prepared, hidden_states, routing): ...
        """,
        "failed to construct it: OSError at mine.py:4: no driver",
    ),
    "raises when imported": (
        "1 / 0",
        "failed to import it: ZeroDivisionError at mine.py:1: division by zero",
    ),
    "exits when imported": ("raise SystemExit(0)", "failed to import it: SystemExit"),
    "exits in forward": (
        """
        class candidate:
            name = 'x'
            def forward(self, prepared, hidden_states, routing):
                raise SystemExit(0)
        """,
        "found: forward raised SystemExit: 0 at mine.py:5 in forward",
    ),
    "raises in forward": (
        """
        class candidate:
            name = 'x'
            def forward(self, prepared, hidden_states, routing):
                raise RuntimeError('illegal address')
        """,
        "found: forward raised RuntimeError: illegal address at mine.py:5 in forward",
    ),
    "raises in prepare": (
        """
        class candidate:
            name = 'x'
            def prepare(self, weights, config, shard, device):
                raise RuntimeError('no such layout')
        """,
        "found: prepare raised RuntimeError: no such layout at mine.py:5 in prepare",
    ),
    "unknown capability": (
        "class candidate:\n    name = 'x'\n    capabilities = {'layuot': None}"
        + GOOD_FORWARD,
        "found 'layuot'; did you mean 'layout'?",
    ),
    "unknown layout": (
        "class candidate:\n    name = 'x'\n    capabilities = {'layout': 'other'}"
        + GOOD_FORWARD,
        f"capabilities.layout: expected one of {', '.join(LAYOUTS)}, None, "
        "found 'other'",
    ),
    "reserved arithmetic": (
        "class candidate:\n    name = 'x'\n"
        "    capabilities = {'arithmetic': 'w4a8_fp8'}" + GOOD_FORWARD,
        "found 'w4a8_fp8' (reserved)",
    ),
    "forward is no function": (
        "class candidate:\n    name = 'x'\n    prepare = 3" + GOOD_FORWARD,
        "expected prepare(weights, config, shard, device), found 3",
    ),
}


@pytest.mark.parametrize("what", BAD_CANDIDATES)
def test_a_candidate_that_cannot_be_used_is_refused(
    what: str, write: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    text, expected = BAD_CANDIDATES[what]
    assert expected in refused(capsys, "--candidate", write(text))


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (
            "torch_densee",
            "one of the installed candidates (flashinfer_op, hf_experts, torch_dense",
        ),
        ("nowhere.py:candidate", "expected a Python file, found none at nowhere.py"),
        (
            "no.such.module:candidate",
            "expected an importable module, found none called no",
        ),
        ("json:candidate", "expected an attribute 'candidate', found none"),
    ],
)
def test_an_unknown_candidate_is_refused(
    spec: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in refused(capsys, "--candidate", spec)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--case", "e4k2"), "case: expected e4k2h64i96"),
        (("--case", "e4k2h65i96/tp1r0/t1/s0"), "hidden: expected a multiple of 32"),
        (("--case", "e4k2h64i96/tp2r2/t1/s0"), "tp_rank: expected 0 to 1, found 2"),
        (("--case", "e4k2h64i96/tp1r0/t1/s0/cold"), "expected hot spots from"),
        (("--layers", "7"), "--layers: expected 0 to 1, found 7"),
        (("--layers", "x"), "--layers: expected 'all' or numbers like 0,5, found 'x'"),
        (("--device", "tpu"), "--device: expected cpu or cuda, found 'tpu'"),
        (("--profile", "slow"), "--profile: expected one of dev, ci, gpu, nightly"),
        (("--require-class", "fp64"), "--require-class: expected one of w4a16_fp32acc"),
        (
            ("--checkpoint", "nowhere"),
            "nowhere: expected a checkpoint folder, found none",
        ),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(
    arguments: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in refused(capsys, "--candidate", "torch_dense", *arguments)


def test_a_run_directory_with_content_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "kept").write_text("mine")
    said = refused(capsys, "--candidate", "torch_dense", "--run-dir", tmp_path)
    assert said == f"{tmp_path}: expected an empty or absent folder, found content"
    assert (tmp_path / "kept").read_text() == "mine"


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(folder: Path, edit: Callable[[dict[str, torch.Tensor]], None]) -> None:
    path = folder / "model-00002-of-00003.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)


EXPERTS = "model.layers.0.mlp.experts"


def _nan_scale(tensors: dict[str, torch.Tensor]) -> None:
    tensors[f"{EXPERTS}.down_proj_scales"][3, 2, 1] = 0xFF


def _short(tensors: dict[str, torch.Tensor]) -> None:
    name = f"{EXPERTS}.gate_up_proj_blocks"
    tensors[name] = tensors[name][:, :-2].contiguous()


def _float_bias(tensors: dict[str, torch.Tensor]) -> None:
    name = f"{EXPERTS}.gate_up_proj_bias"
    tensors[name] = tensors[name].float()


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing shard": (
        lambda f: (f / "model-00003-of-00003.safetensors").unlink(),
        "model-00003-of-00003.safetensors: expected this shard for model.layers.1",
    ),
    "truncated shard": (
        lambda f: _cut(f / "model-00002-of-00003.safetensors"),
        "model-00002-of-00003.safetensors: expected a whole safetensors file, found",
    ),
    "index points outside": (
        lambda f: edit_json(
            f / "model.safetensors.index.json", weight_map={"x": "../other"}
        ),
        "x: expected a file name in the same folder, found '../other'",
    ),
    "wrong shape": (
        lambda f: edit_tensors(f, _short),
        "expected shape [8, 448, 5, 16] from config.json, found [8, 446, 5, 16]",
    ),
    "wrong dtype": (
        lambda f: edit_tensors(f, _float_bias),
        "gate_up_proj_bias: expected dtype BF16, found F32",
    ),
    "NaN scale": (
        lambda f: edit_tensors(f, _nan_scale),
        "down_proj_scales: expected scale bytes 0x00 to 0xfe, found 0xff (NaN) "
        "at expert 3, row 2, block 1",
    ),
    "hidden not a multiple of 32": (
        lambda f: edit_json(f / "config.json", hidden_size=100),
        "config.json: hidden: expected a multiple of 32 (one MXFP4 block), found 100",
    ),
    "absurd integer": (
        lambda f: edit_json(f / "config.json", num_local_experts=10**15),
        "num_local_experts: expected an integer from 1 to 1048576, found 1000000",
    ),
    "not gpt-oss": (
        lambda f: edit_json(f / "config.json", model_type="llama"),
        "model_type: expected 'gpt_oss', found 'llama'",
    ),
}


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_checkpoint_is_refused(
    what: str, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, expected = DAMAGE[what]
    damage(checkpoint)
    said = refused(capsys, "--candidate", "torch_dense", "--checkpoint", checkpoint)
    assert expected in said
    assert str(checkpoint) in said


def test_make_checkpoint_leaves_content_alone(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["make-checkpoint", str(checkpoint)])
    assert stopped.value.code == ExitCode.USAGE
    assert "expected an empty or absent folder" in capsys.readouterr().err
    shutil.rmtree(checkpoint)


def test_an_unknown_command_or_option_is_a_usage_error() -> None:
    for arguments in (["chek"], ["check", "--candidat", "x"]):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == ExitCode.USAGE
