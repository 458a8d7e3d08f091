"""`mxmoe.reference.checkpoint` on whole folders: what is read, and when."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from mxmoe.reference.checkpoint import open_checkpoint
from mxmoe.reference.errors import BadInput
from mxmoe.reference.types import SWIGLU_OAI
from mxmoe.reference.types import ExpertWeights
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import expected_tensors

LAYERS = 3
CONFIG = MoEConfig(hidden=64, intermediate=96, experts=4, top_k=2)

# Written out here, not taken from the package: as the published files spell them.
HUGGING_FACE = {
    "gate_up_blocks": "model.layers.{}.mlp.experts.gate_up_proj_blocks",
    "gate_up_scales": "model.layers.{}.mlp.experts.gate_up_proj_scales",
    "gate_up_bias": "model.layers.{}.mlp.experts.gate_up_proj_bias",
    "down_blocks": "model.layers.{}.mlp.experts.down_proj_blocks",
    "down_scales": "model.layers.{}.mlp.experts.down_proj_scales",
    "down_bias": "model.layers.{}.mlp.experts.down_proj_bias",
    "router_weight": "model.layers.{}.mlp.router.weight",
    "router_bias": "model.layers.{}.mlp.router.bias",
}
OPENAI = {
    "gate_up_blocks": "block.{}.mlp.mlp1_weight.blocks",
    "gate_up_scales": "block.{}.mlp.mlp1_weight.scales",
    "gate_up_bias": "block.{}.mlp.mlp1_bias",
    "down_blocks": "block.{}.mlp.mlp2_weight.blocks",
    "down_scales": "block.{}.mlp.mlp2_weight.scales",
    "down_bias": "block.{}.mlp.mlp2_bias",
    "router_weight": "block.{}.mlp.gate.weight",
    "router_bias": "block.{}.mlp.gate.bias",
}
HUGGING_FACE_CONFIG = {
    "model_type": "gpt_oss",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "num_hidden_layers": LAYERS,
    "swiglu_limit": 7.0,
}
OPENAI_CONFIG = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_experts": 4,
    "experts_per_token": 2,
    "num_hidden_layers": LAYERS,
}
SPELLINGS = {
    "hugging_face": (HUGGING_FACE, HUGGING_FACE_CONFIG),
    "openai": (OPENAI, OPENAI_CONFIG),
}
ARRANGEMENTS = ("one file", "shards with index", "shards without index")
INDEX = "model.safetensors.index.json"

spellings = pytest.mark.parametrize("spelling", SPELLINGS)
arrangements = pytest.mark.parametrize("arrangement", ARRANGEMENTS)


def layer(number: int) -> dict[str, torch.Tensor]:
    """One layer by field name; scale bytes from 0x00 to 0xFE, so no NaN."""
    generator = torch.Generator().manual_seed(number)
    return {
        name: torch.randint(255, shape, generator=generator, dtype=dtype)
        if dtype == torch.uint8
        else torch.randn(shape, generator=generator).to(torch.bfloat16)
        for name, (shape, dtype) in expected_tensors(CONFIG).items()
    }


def named(number: int, names: Mapping[str, str] = HUGGING_FACE) -> dict:
    """One layer by the names in a file."""
    return {names[field].format(number): t for field, t in layer(number).items()}


def write(
    folder: Path, spelling: str = "hugging_face", arrangement: str = "one file"
) -> Path:
    """A small gpt-oss folder; each shard but the last ends amid a layer."""
    names, config = SPELLINGS[spelling]
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {"embedding.weight": torch.zeros(5, 64)}
    for number in range(LAYERS):
        tensors |= named(number, names)
    if arrangement == "one file":
        save_file(tensors, folder / "model.safetensors")
        return folder
    placed = {name: f"part-{n // 9}.safetensors" for n, name in enumerate(tensors)}
    for file_name in sorted(set(placed.values())):
        part = {n: t for n, t in tensors.items() if placed[n] == file_name}
        save_file(part, folder / file_name)
    if arrangement == "shards with index":
        (folder / INDEX).write_text(json.dumps({"weight_map": placed}))
    return folder


def assert_read_back(expected: Mapping[str, torch.Tensor], read: ExpertWeights) -> None:
    """Every tensor, bit for bit, and none besides."""
    found = read.tensors()
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert tensor.dtype == found[name].dtype
        assert torch.equal(tensor, found[name])


@spellings
@arrangements
def test_every_layer_is_read_back_bit_for_bit(tmp_path, spelling, arrangement) -> None:
    checkpoint = open_checkpoint(write(tmp_path, spelling, arrangement))
    for number in range(LAYERS):
        read = checkpoint.layer(number)
        read.check(checkpoint.config)
        assert_read_back(layer(number), read)


@spellings
def test_the_configuration_is_that_of_the_folder(tmp_path, spelling) -> None:
    checkpoint = open_checkpoint(write(tmp_path, spelling))
    assert (CONFIG, LAYERS) == (checkpoint.config, checkpoint.layers)
    assert SWIGLU_OAI == checkpoint.config.activation


def test_alpha_and_limit_are_read_if_they_are_given(tmp_path) -> None:
    changed = HUGGING_FACE_CONFIG | {"swiglu_alpha": 2, "swiglu_limit": 10.5}
    (write(tmp_path) / "config.json").write_text(json.dumps(changed))
    activation = open_checkpoint(tmp_path).config.activation
    assert (2.0, 10.5, 1.0) == (activation.alpha, activation.limit, activation.beta)


def test_a_folder_may_be_named_by_text(tmp_path) -> None:
    assert_read_back(layer(0), open_checkpoint(str(write(tmp_path))).layer(0))


@arrangements
def test_shards_may_be_links_as_in_a_hub_cache(tmp_path, arrangement) -> None:
    """snapshots/<revision>/x -> ../../blobs/<hash>, the index too."""
    snapshot, blobs = tmp_path / "snapshots" / "main", tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    write(snapshot, arrangement=arrangement)
    for number, path in enumerate(sorted(snapshot.iterdir())):
        blob = path.rename(blobs / f"{number:064x}")
        path.symlink_to(Path("..", "..", "blobs", blob.name))
    assert_read_back(layer(2), open_checkpoint(snapshot).layer(2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_the_router_may_have_any_floating_type(tmp_path, dtype) -> None:
    tensors = {n: t for number in range(LAYERS) for n, t in named(number).items()}
    name = HUGGING_FACE["router_weight"].format(1)
    tensors[name] = tensors[name].to(dtype)
    save_file(tensors, write(tmp_path) / "model.safetensors")
    assert torch.equal(tensors[name], open_checkpoint(tmp_path).layer(1).router_weight)


def test_every_scale_byte_but_255_is_read(tmp_path) -> None:
    tensors = {n: t for number in range(LAYERS) for n, t in named(number).items()}
    scales = tensors[HUGGING_FACE["gate_up_scales"].format(0)]
    scales.view(-1)[:255] = torch.arange(255, dtype=torch.uint8)
    save_file(tensors, write(tmp_path) / "model.safetensors")
    assert torch.equal(scales, open_checkpoint(tmp_path).layer(0).gate_up_scales)


def test_a_file_that_the_index_does_not_list_is_not_opened(tmp_path) -> None:
    write(tmp_path, arrangement="shards with index")
    (tmp_path / "consolidated.safetensors").write_bytes(b"not one")
    assert_read_back(layer(0), open_checkpoint(tmp_path).layer(0))


def test_opening_reads_no_header_of_an_indexed_shard(tmp_path) -> None:
    """A damaged shard is found when a layer of it is asked for, not before."""
    write(tmp_path, arrangement="shards with index")
    (tmp_path / "part-2.safetensors").write_bytes(b"not one")
    checkpoint = open_checkpoint(tmp_path)
    assert_read_back(layer(0), checkpoint.layer(0))
    with pytest.raises(BadInput):
        checkpoint.layer(2)


class Headers:
    """A safetensors file that has names and cannot give a tensor."""

    def __init__(self, *args, **kwargs) -> None:
        self.file = safe_open(*args, **kwargs)

    def __enter__(self) -> Headers:
        return self

    def __exit__(self, *_) -> None:
        pass

    def keys(self) -> list[str]:
        return self.file.keys()


@arrangements
def test_opening_asks_for_no_tensor(tmp_path, arrangement, monkeypatch) -> None:
    monkeypatch.setattr("mxmoe.reference.checkpoint.read.safe_open", Headers)
    checkpoint = open_checkpoint(write(tmp_path, arrangement=arrangement))
    assert 1 + 8 * LAYERS == len(checkpoint.files)
    with pytest.raises(AttributeError):
        checkpoint.layer(0)


@arrangements
def test_damaged_data_of_one_layer_leaves_the_others_readable(
    tmp_path, arrangement
) -> None:
    """Every byte of the last layer is 0xFF on disk, which its scales may not be."""
    write(tmp_path, arrangement=arrangement)
    for path in tmp_path.glob("*.safetensors"):
        content = path.read_bytes()
        for tensor in layer(LAYERS - 1).values():
            data = tensor.contiguous().view(torch.uint8).numpy().tobytes()
            content = content.replace(data, b"\xff" * len(data))
        path.write_bytes(content)
    checkpoint = open_checkpoint(tmp_path)
    assert_read_back(layer(0), checkpoint.layer(0))
    with pytest.raises(BadInput, match="found 0xff"):
        checkpoint.layer(LAYERS - 1)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")
def test_tensors_are_memory_mapped(tmp_path) -> None:
    """Each lies in a mapping of its file, so a layer costs no memory until used."""
    weights = open_checkpoint(write(tmp_path)).layer(1)
    maps = Path("/proc/self/maps").read_text().splitlines()
    mapped = [
        range(*(int(end, 16) for end in line.split()[0].split("-")))
        for line in maps
        if line.endswith(str(tmp_path / "model.safetensors"))
    ]
    for tensor in weights.tensors().values():
        assert any(tensor.data_ptr() in addresses for addresses in mapped)


@pytest.mark.parametrize("number", [-1, LAYERS, 10**30])
def test_a_layer_out_of_range_is_bad_input(tmp_path, number) -> None:
    checkpoint = open_checkpoint(write(tmp_path))
    with pytest.raises(BadInput) as caught:
        checkpoint.layer(number)
    expected = f"{tmp_path}: layer: expected 0 to 2, found {number}"
    assert expected == str(caught.value)


def test_layer_bytes_are_those_of_one_layer(tmp_path) -> None:
    """Counted from shapes, for the memory check before anything is read."""
    expected = sum(tensor.nbytes for tensor in layer(0).values())
    assert expected == open_checkpoint(write(tmp_path)).layer_bytes()


def test_a_checkpoint_is_frozen(tmp_path) -> None:
    checkpoint = open_checkpoint(write(tmp_path))
    with pytest.raises(FrozenInstanceError):
        checkpoint.layers = 1
