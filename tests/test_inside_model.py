"""The trained model with a candidate inside: same numbers, and proof that it ran."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra 'hf'")

from safetensors.torch import load_file

from mxmoe.conformance.registry import load_candidate
from mxmoe.conformance.subject import Subject
from mxmoe.evals.grade_school import frozen
from mxmoe.evals.grade_school.model import FOLDER
from mxmoe.evals.inside.experts import Inside
from mxmoe.evals.inside.experts import put_inside
from mxmoe.evals.inside.load import Loaded
from mxmoe.evals.inside.load import load
from mxmoe.evals.inside.proof import Proof
from mxmoe.evals.inside.proof import proof
from mxmoe.reference.errors import BadInput
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import Shard

F32, BF16 = torch.float32, torch.bfloat16


class Remembers:
    """torch_dense, and the weights that each `prepare` was given."""

    def __init__(self) -> None:
        self.inner = load_candidate("torch_dense").candidate
        self.weights: list[ExpertWeights] = []

    def prepare(
        self,
        weights: ExpertWeights,
        config: MoEConfig,
        shard: Shard,
        device: torch.device,
    ) -> Any:
        self.weights.append(weights)
        return self.inner.prepare(weights, config, shard, device)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def loaded(dtype: torch.dtype = F32) -> Loaded:
    return load(FOLDER, dtype=dtype, device="cpu")


def inside(spec: str, dtype: torch.dtype = F32) -> Inside:
    return put_inside(loaded(dtype), load_candidate(spec, device="cpu"))


def logits(model: Loaded) -> torch.Tensor:
    """Of a frozen problem with its answer, [t, vocabulary]."""
    problem = frozen.load_test_problems()[0]
    ids = model.tokenizer(problem.prompt + problem.completion, return_tensors="pt")
    with torch.no_grad():
        return model.model(input_ids=ids["input_ids"]).logits[0].float()


def counted(model: Inside) -> Proof:
    return proof(model.passes, model.experts)


@pytest.fixture(scope="module")
def plain() -> Loaded:
    return loaded()


@pytest.fixture(scope="module")
def wanted(plain: Loaded) -> torch.Tensor:
    return logits(plain)


@pytest.fixture(scope="module")
def dense() -> Inside:
    return inside("torch_dense")


def moved(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Root mean square; the largest change is that of a token whose fourth and fifth
    expert are nearly tied, and any rounding may exchange them."""
    return float((found - wanted).square().mean().sqrt())


@pytest.fixture(scope="module")
def bf16_effect(wanted: torch.Tensor) -> float:
    """By how much bf16 everywhere moves logits: bf16 in the experts moves them less."""
    return moved(logits(loaded(BF16)), wanted)


def test_an_fp32_candidate_gives_the_plain_models_logits(
    wanted: torch.Tensor, bf16_effect: float
) -> None:
    model = inside("hf_experts")
    # Float32 has 16 bits of mantissa more than bfloat16; half of them are asked for.
    assert moved(logits(model.loaded), wanted) < bf16_effect / 2**8
    assert counted(model).holds


@pytest.mark.parametrize("spec", ["torch_dense", "trtllm_gen"])
def test_a_bf16_candidate_differs_by_less_than_bf16_everywhere(
    spec: str, wanted: torch.Tensor, bf16_effect: float
) -> None:
    assert 0 < moved(logits(inside(spec).loaded), wanted) < bf16_effect


def test_a_model_in_bf16_takes_candidates_too(
    wanted: torch.Tensor, bf16_effect: float
) -> None:
    found = logits(inside("torch_dense", BF16).loaded)
    # Two draws of the same rounding noise.
    assert moved(found, wanted) < 2 * bf16_effect


def test_every_layer_is_prepared_once_from_the_checkpoints_bytes() -> None:
    subject = load_candidate("torch_dense", device="cpu")
    remembers = Remembers()
    model = put_inside(loaded(), replace(subject, candidate=remembers))
    tensors = load_file(FOLDER / "model.safetensors")
    assert len(remembers.weights) == len(model.loaded.layers) == len(model.experts)
    for layer, weights in enumerate(remembers.weights):
        experts = f"model.layers.{layer}.mlp.experts"
        assert torch.equal(
            weights.gate_up_blocks, tensors[f"{experts}.gate_up_proj_blocks"]
        )
        assert torch.equal(weights.down_scales, tensors[f"{experts}.down_proj_scales"])
        assert weights.down_bias is not None
        assert torch.equal(weights.down_bias, tensors[f"{experts}.down_proj_bias"])


def test_transformers_own_expert_weights_are_freed(dense: Inside) -> None:
    names = [name for name, _ in dense.loaded.model.named_parameters()]
    assert names
    assert not [name for name in names if "experts" in name]
    experts = copy.copy(dense.loaded.layers[0].mlp.experts)
    experts.config = copy.copy(experts.config)
    experts.config._experts_implementation_internal = "eager"
    with pytest.raises(AttributeError, match="gate_up_proj"):
        experts(torch.ones(1, 192), torch.zeros(1, 4).long(), torch.ones(1, 4))


def test_calls_are_counted_layer_by_layer() -> None:
    model = inside("torch_dense")
    assert counted(model).objection() == "the model made no forward pass"
    tokens = len(logits(model.loaded))
    logits(model.loaded)
    assert counted(model) == Proof(
        passes=2,
        tokens=2 * tokens,
        layer_calls=(2, 2, 2, 2),
        layer_tokens=(2 * tokens,) * 4,
    )
    assert counted(model).holds


def test_a_layer_that_bypasses_the_hook_is_noticed(
    plain: Loaded, wanted: torch.Tensor, bf16_effect: float
) -> None:
    model = inside("torch_dense")
    model.loaded.layers[2].mlp.experts = plain.layers[2].mlp.experts
    found = logits(model.loaded)
    assert moved(found, wanted) < bf16_effect  # the numbers do not tell
    objection = counted(model).objection()
    assert objection is not None
    assert objection.startswith("layer 2: expected 1 calls of the candidate")
    assert objection.endswith("found 0")
    assert not counted(model).holds


def test_a_candidate_given_a_part_of_the_tokens_is_noticed() -> None:
    model = inside("torch_dense")
    experts = model.experts[1]
    whole = experts.forward

    def half(x: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        cut = len(x) // 2
        return torch.cat((whole(x[:cut], ids[:cut], weights[:cut]), x[cut:]))

    experts.forward = half  # type: ignore[method-assign]
    logits(model.loaded)
    objection = counted(model).objection()
    assert objection is not None
    assert "layer 1: expected" in objection
    assert "tokens given to the candidate" in objection


def test_bad_folders_and_candidates_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="expected a checkpoint folder"):
        load(tmp_path / "none", dtype=F32, device="cpu")
    for name in ("config.json", "model.safetensors", "generation_config.json"):
        shutil.copyfile(FOLDER / name, tmp_path / name)
    with pytest.raises(BadInput, match=r"expected tokenizer\.json, found none"):
        load(tmp_path, dtype=F32, device="cpu")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BadInput, match="expected a model that transformers loads"):
        load(tmp_path, dtype=F32, device="cpu")


def test_a_candidate_that_refuses_the_shape_is_bad_input(plain: Loaded) -> None:
    subject = load_candidate("torch_dense", device="cpu")
    narrow: Subject = replace(
        subject,
        capabilities=replace(subject.capabilities, shapes=lambda config: "not today"),
    )
    with pytest.raises(BadInput, match="not today"):
        put_inside(plain, narrow)
    assert hasattr(plain.layers[0].mlp.experts, "gate_up_proj")
