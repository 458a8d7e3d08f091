"""A pair of dumps: the format, what is refused, and the first stage that differs."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

pytest.importorskip("transformers", reason="needs the extra 'hf'")

from mxmoe.conformance.verdict import ExitCode
from mxmoe.evals.grade_school.model import FOLDER
from mxmoe.evals.inside.load import load
from mxmoe.evals.locate.dumps.folder import open_dump
from mxmoe.evals.locate.dumps.run import DumpOptions
from mxmoe.evals.locate.dumps.run import run_dumps
from mxmoe.evals.locate.run import Located
from mxmoe.reference.checkpoint import open_checkpoint
from mxmoe.reference.errors import BadInput
from mxmoe.reference.moe import moe
from mxmoe.reference.routing import route_layer
from mxmoe.reference.types import ARITHMETIC

CHECKPOINT = open_checkpoint(FOLDER)
T, K = 12, CHECKPOINT.config.top_k
DOCS = (Path(__file__).parents[1] / "docs" / "locate.md").read_text("utf-8")
Stages = dict[str, torch.Tensor]


def stages(layer: int, seed: int = 0) -> Stages:
    """An honest bf16 computation of a layer."""
    x = torch.randn(T, 192, generator=torch.Generator().manual_seed(seed)).bfloat16()
    weights, config = CHECKPOINT.layer(layer), CHECKPOINT.config
    routing = route_layer(x, weights.router_weight, weights.router_bias, config)
    arithmetic = ARITHMETIC["w4a16_fp32acc"]
    trace = moe(weights, config, x, routing, arithmetic=arithmetic)
    inputs = {"hidden_states": x, "ids": routing.ids, "weights": routing.weights}
    return inputs | {n: t.contiguous() for n, t in trace.stages.items()}


def write(folder: Path, *layers: Stages) -> Path:
    folder.mkdir()
    for number, tensors in enumerate(layers):
        save_file(tensors, folder / f"layer{number}.safetensors")
    return folder


def compared(
    tmp: Path, right: list[Stages], wrong: list[Stages], **more: Any
) -> Located:
    options = DumpOptions(
        reference=write(tmp / "right", *right),
        candidate=write(tmp / "wrong", *wrong),
        **more,
    )
    return run_dumps(options, tmp / "run")


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(None, id="pair"),
        pytest.param(FOLDER, id="checkpoint", marks=pytest.mark.nightly),
    ],
)
def test_a_wrong_entry_is_named(tmp_path: Path, model: Path | None) -> None:
    wrong = [stages(0), stages(1)]
    wrong[1]["down"] = wrong[1]["down"].clone()
    token, slot = 4, 2
    wrong[1]["down"][token, slot, 33] += 3 * wrong[1]["down"].abs().max()
    expert = int(wrong[1]["ids"][token, slot])
    located = compared(tmp_path, [stages(0), stages(1)], wrong, model=model)
    assert located.code is ExitCode.FAIL
    where = f"stage down, expert {expert}, token {token} slot {slot}, column 33"
    assert located.lines[0].startswith(f"layer 1, {where}: ")


@pytest.mark.parametrize("model", [None, FOLDER], ids=["pair", "checkpoint"])
def test_equal_and_honest_dumps_agree(tmp_path: Path, model: Path | None) -> None:
    located = compared(tmp_path, [stages(0)], [stages(0)], model=model)
    assert located.code is ExitCode.PASS
    assert located.lines[0].startswith("no divergence: 1 layers")


def test_rows_of_a_dispatch_and_slots_in_another_order_are_aligned(
    tmp_path: Path,
) -> None:
    right, other = stages(0), stages(0)
    for name in ("ids", "weights", "gate_up", "activation", "down"):
        other[name] = other[name].flip(1).contiguous()
    order = torch.randperm(T * K, generator=torch.Generator().manual_seed(1))
    other["down"] = other["down"].flatten(0, 1)[order]
    other["down.rows"] = torch.stack((order // K, order % K), dim=1)
    assert compared(tmp_path, [right], [other]).code is ExitCode.PASS


def test_exchanged_rows_are_called_that(tmp_path: Path) -> None:
    wrong = stages(0)
    wrong["combine"] = wrong["combine"].roll(1, 0).contiguous()
    located = compared(tmp_path, [stages(0)], [wrong])
    assert "stage combine, token 0" in located.lines[0]
    assert "rows exchanged: the first wrong row holds" in located.lines[0]


def _header(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


DAMAGED = {
    "not safetensors": b"\x80\x04K*.",
    "a huge tensor": _header(
        b'{"down":{"dtype":"F32","shape":[4294967296,4],"data_offsets":[0,4]}}'
    )
    + bytes(4),
    "an endless header": struct.pack("<Q", 2**60) + b"{}",
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "layer0.safetensors").write_bytes(content)
    with pytest.raises(BadInput, match=r"layer0\.safetensors: "):
        open_dump(tmp_path)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"evil\x1b": torch.ones(2, 2)}, r"expected tensors from .* found 'evil\\x1b'"),
        ({"ids": torch.ones(2, 2)}, "ids: expected I32 or I64, found F32"),
        ({"down": torch.ones(2)}, "expected rows of values"),
    ],
    ids=["name", "dtype", "shape"],
)
def test_other_tensors_are_refused(tmp_path: Path, tensors: Stages, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        open_dump(write(tmp_path / "d", tensors))


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    outside = write(tmp_path / "outside", stages(0))
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / "layer0.safetensors").symlink_to(outside / "layer0.safetensors")
    with pytest.raises(BadInput, match="found a link"):
        open_dump(folder)


def test_the_hook_of_the_documents_writes_a_dump(tmp_path: Path) -> None:
    hook, use = re.findall(r"```python\n(.*?)```", DOCS, flags=re.DOTALL)
    assert len([line for line in hook.splitlines() if line.strip()]) <= 15
    model = load(FOLDER, dtype=torch.float32, device="cpu").model
    names: dict[str, Any] = {
        "model": model,
        "folder": tmp_path,
        "input_ids": torch.tensor([[5, 6, 7, 8]]),
    }
    exec(compile(hook + use, "locate.md", "exec"), names)
    found = open_dump(tmp_path)
    assert list(found) == [0, 1, 2, 3]
    assert found[0].names == ("hidden_states", "ids", "weights", "combine")
    options = DumpOptions(
        reference=tmp_path, candidate=tmp_path, model=FOLDER, arithmetic="fp32"
    )
    assert run_dumps(options, tmp_path / "run").code is ExitCode.PASS
