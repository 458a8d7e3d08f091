"""transformers takes the embedded checkpoint for a gpt-oss model, bit for bit."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from mxmoe.conformance.cases.embedded import EMBEDDED_LAYERS
from mxmoe.conformance.cases.embedded import EMBEDDED_SHAPE
from mxmoe.conformance.cases.embedded import write_checkpoint
from mxmoe.reference.checkpoint import open_checkpoint
from mxmoe.reference.formats import decode

transformers = pytest.importorskip("transformers", reason="needs the extra 'hf'")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("checkpoint") / "made"
    write_checkpoint(made)
    return made


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "f32"])
def test_dequantised_weights_are_bit_equal(folder: Path, dtype: torch.dtype) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers' own, on a CPU
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            quantization_config=transformers.Mxfp4Config(dequantize=True),
            dtype=dtype,
            output_loading_info=True,
        )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    checkpoint = open_checkpoint(folder)
    for layer in range(EMBEDDED_LAYERS):
        ours = checkpoint.layer(layer)
        experts = model.model.layers[layer].mlp.experts
        for name, blocks, scales in (
            ("gate_up_proj", ours.gate_up_blocks, ours.gate_up_scales),
            ("down_proj", ours.down_blocks, ours.down_scales),
        ):
            # [e, in, out] there, [e, out, in] here.
            theirs = getattr(experts, name).detach().transpose(1, 2)
            assert torch.equal(theirs, decode(blocks, scales, dtype)), name
        assert ours.gate_up_bias is not None
        assert torch.equal(experts.gate_up_proj_bias, ours.gate_up_bias.to(dtype))
        router = model.model.layers[layer].mlp.router
        assert torch.equal(router.weight, ours.router_weight.to(dtype))


def test_the_embedded_shape_is_what_the_design_asks_for() -> None:
    """H != I, neither a multiple of 128."""
    assert EMBEDDED_SHAPE.hidden != EMBEDDED_SHAPE.intermediate
    assert EMBEDDED_SHAPE.hidden % 128
    assert EMBEDDED_SHAPE.intermediate % 128


def test_the_same_seed_gives_the_same_files(folder: Path, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "again")
    write_checkpoint(tmp_path / "other", seed=1)
    for path in folder.iterdir():
        again = (tmp_path / "again" / path.name).read_bytes()
        assert path.read_bytes() == again
    name = "model-00002-of-00003.safetensors"
    assert (folder / name).read_bytes() != (tmp_path / "other" / name).read_bytes()
