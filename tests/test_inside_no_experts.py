"""A model whose experts are never read is the same model around them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra 'hf'")

from safetensors.torch import load_file
from safetensors.torch import save_file
from transformers.models.gpt_oss import modeling_gpt_oss

from mxmoe.conformance.registry import load_candidate
from mxmoe.evals.grade_school.model import FOLDER
from mxmoe.evals.inside import load as loading
from mxmoe.evals.inside.experts import put_inside
from mxmoe.evals.inside.load import Loaded
from mxmoe.evals.inside.load import load
from mxmoe.reference.errors import BadInput

F32, BF16 = torch.float32, torch.bfloat16


def without(dtype: torch.dtype = F32, folder: Path = FOLDER) -> Loaded:
    return load(folder, dtype=dtype, device="cpu", experts=False)


@torch.inference_mode()
def logits(loaded: Loaded) -> torch.Tensor:
    found: torch.Tensor = loaded.model(input_ids=torch.arange(5, 17)[None]).logits
    return found


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The shipped model in a folder that may be damaged."""
    folder = tmp_path / "model"
    shutil.copytree(FOLDER, folder)
    return folder


@pytest.mark.parametrize("dtype", [F32, BF16])
def test_all_that_is_no_expert_is_bit_for_bit_the_same(dtype: torch.dtype) -> None:
    whole, bare = load(FOLDER, dtype=dtype, device="cpu"), without(dtype)
    for members in ("named_parameters", "named_buffers"):
        wanted = dict(getattr(whole.model, members)())
        found = dict(getattr(bare.model, members)())
        assert set(found) == {name for name in wanted if ".experts." not in name}
        for name, tensor in found.items():
            assert tensor.dtype == wanted[name].dtype
            assert torch.equal(tensor, wanted[name]), name


def test_a_candidate_gives_the_same_logits_in_it() -> None:
    whole = load(FOLDER, dtype=F32, device="cpu")
    found = []
    for loaded in (whole, without()):
        put_inside(loaded, load_candidate("torch_dense", device="cpu"))
        found.append(logits(loaded))
    assert torch.equal(*found)


def test_nothing_answers_before_a_candidate_is_inside() -> None:
    with pytest.raises(AttributeError, match="gate_up_proj"):
        logits(without())


def test_models_that_are_built_later_have_experts_again() -> None:
    before = modeling_gpt_oss.GptOssExperts
    without()
    assert modeling_gpt_oss.GptOssExperts is before
    experts = load(FOLDER, dtype=F32, device="cpu").layers[0].mlp.experts
    assert type(experts) is before


def test_layers_over_several_devices_are_spread_by_experts_that_are_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Path] = []

    def whole(folder: Path, **options: object) -> None:
        asked.append(folder)
        raise RuntimeError

    monkeypatch.setattr(loading, "_whole", whole)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    with pytest.raises(BadInput, match="expected a model that transformers loads"):
        load(FOLDER, dtype=F32, device="auto", experts=False)
    assert asked == [FOLDER]


@pytest.mark.parametrize(
    ("lost", "added", "said"),
    [
        ("model.norm.weight", None, r"missing keys \['model.norm.weight'\]"),
        (None, "model.layers.0.mlp.experts.other", r"unexpected keys \['model.layers"),
    ],
)
def test_a_tensor_too_few_or_too_many_is_refused(
    lost: str | None, added: str | None, said: str, copied: Path
) -> None:
    tensors = load_file(copied / "model.safetensors")
    tensors.pop(lost, None)  # type: ignore[arg-type]
    if added is not None:
        tensors[added] = torch.zeros(1)
    save_file(tensors, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadInput, match=said):
        without(folder=copied)


def test_a_missing_expert_tensor_is_refused_when_a_candidate_is_put_inside(
    copied: Path,
) -> None:
    tensors = load_file(copied / "model.safetensors")
    del tensors["model.layers.2.mlp.experts.down_proj_scales"]
    save_file(tensors, copied / "model.safetensors", metadata={"format": "pt"})
    loaded = without(folder=copied)
    with pytest.raises(BadInput, match=r"layers\.2.*down_proj_scales"):
        put_inside(loaded, load_candidate("torch_dense", device="cpu"))
