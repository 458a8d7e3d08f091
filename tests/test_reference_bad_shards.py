"""A checkpoint folder whose index or shards are damaged: always one sentence.

It names the file, the tensor where there is one, what was expected and what was
found.
"""

from __future__ import annotations

import contextlib
import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from mxmoe.reference.checkpoint import open_checkpoint
from mxmoe.reference.errors import BadInput
from mxmoe.reference.types import MoEConfig
from mxmoe.reference.types import expected_tensors

CONFIG = {
    "model_type": "gpt_oss",
    "hidden_size": 64,
    "intermediate_size": 32,
    "num_local_experts": 2,
    "num_experts_per_tok": 1,
    "num_hidden_layers": 2,
}
SHAPES = expected_tensors(MoEConfig(hidden=64, intermediate=32, experts=2, top_k=1))
NAMES = {
    "gate_up_blocks": "mlp.experts.gate_up_proj_blocks",
    "gate_up_scales": "mlp.experts.gate_up_proj_scales",
    "gate_up_bias": "mlp.experts.gate_up_proj_bias",
    "down_blocks": "mlp.experts.down_proj_blocks",
    "down_scales": "mlp.experts.down_proj_scales",
    "down_bias": "mlp.experts.down_proj_bias",
    "router_weight": "mlp.router.weight",
    "router_bias": "mlp.router.bias",
}
MODEL, INDEX = "model.safetensors", "model.safetensors.index.json"
WHOLE_FILE = "expected a whole safetensors file, found"

fields = pytest.mark.parametrize("field", NAMES)


def name_of(field: str, layer: int = 1) -> str:
    """The tensor's name in the file."""
    return f"model.layers.{layer}.{NAMES[field]}"


def tensors() -> dict[str, torch.Tensor]:
    """Two layers, all zero."""
    return {
        name_of(field, layer): torch.zeros(shape, dtype=dtype or torch.bfloat16)
        for field, (shape, dtype) in SHAPES.items()
        for layer in range(2)
    }


def as_bytes(content: bytes | dict) -> bytes:
    """Bytes as they are; tensors as safetensors; other objects as JSON."""
    if isinstance(content, bytes):
        return content
    of_tensors = isinstance(next(iter(content.values())), torch.Tensor)
    return save(content) if of_tensors else json.dumps(content).encode()


def write(folder: Path, files: dict[str, bytes | dict | None] | None = None) -> Path:
    """A good folder with one shard and no index, but for `files`; None: left out."""
    good = {"config.json": CONFIG, MODEL: tensors()}
    for name, content in (good | (files or {})).items():
        if content is not None:
            (folder / name).write_bytes(as_bytes(content))
    return folder


def shard(header: bytes | dict, data: bytes) -> bytes:
    """A safetensors file with a header made by hand."""
    text = as_bytes(header)
    return struct.pack("<Q", len(text)) + text + data


def read_all(folder: Path) -> None:
    """Open the folder and read both layers."""
    checkpoint = open_checkpoint(folder)
    for layer in range(2):
        checkpoint.layer(layer)


def refused(folder: Path, **files: bytes | dict | None) -> str:
    """The sentence that refuses a folder with this index, model or extra shard."""
    names = {"index": INDEX, "model": MODEL, "extra": "extra.safetensors"}
    write(folder, {names[key]: content for key, content in files.items()})
    with pytest.raises(BadInput) as caught:
        read_all(folder)
    text = str(caught.value)
    assert text.isprintable()
    assert "expected" in text
    assert "found" in text
    assert text.startswith(f"{folder}")
    return text.removeprefix(f"{folder}").removeprefix("/")


def weight_map(**changed: object) -> dict[str, object]:
    """An index that names the one shard, but for `changed` fields of layer 0."""
    places = dict.fromkeys(tensors(), MODEL)
    return {"weight_map": places | {name_of(f, 0): v for f, v in changed.items()}}


def test_the_good_folder_is_read(tmp_path) -> None:
    read_all(write(tmp_path))
    read_all(write(tmp_path, {INDEX: weight_map()}))


def test_no_shard_at_all_is_refused(tmp_path) -> None:
    assert ": expected *.safetensors, found none" == refused(tmp_path, model=None)


def test_a_missing_shard_is_refused(tmp_path) -> None:
    text = refused(tmp_path, index=weight_map(down_bias="part-2.safetensors"))
    expected = f"expected this shard for {name_of('down_bias', 0)}, found no file"
    assert f"part-2.safetensors: {expected}" == text


@pytest.mark.parametrize("place", ["../x", "/etc/passwd", "a/b", "a\\b", "./x", "x/"])
@pytest.mark.parametrize("place_exists", [True, False])
def test_an_index_cannot_leave_its_folder(tmp_path, place, place_exists) -> None:
    """Not even to a good shard: the text of the name decides."""
    folder = tmp_path / "folder"
    folder.mkdir()
    with contextlib.suppress(OSError):
        if place_exists and not place.startswith("/"):
            (folder / place).parent.mkdir(exist_ok=True)
            (folder / place).write_bytes(save(tensors()))
    text = refused(folder, index=weight_map(down_bias=place))
    expected = f"expected a file name in the same folder, found {place!r}"
    assert f"{INDEX}: {name_of('down_bias', 0)}: {expected}" == text


@pytest.mark.parametrize("place", ["", ".", "..", None, 5, True, [MODEL], {"a": 1}])
def test_an_index_entry_is_a_file_name(tmp_path, place) -> None:
    text = refused(tmp_path, index=weight_map(down_bias=place))
    expected = f"expected a file name in the same folder, found {place!r}"
    assert f"{INDEX}: {name_of('down_bias', 0)}: {expected}" == text


@pytest.mark.parametrize("place", ["a\nb", "x" * 300, "a\0b", "\ud800", "\x1b[31m"])
def test_a_name_that_no_file_system_or_terminal_takes_is_refused(
    tmp_path, place
) -> None:
    assert "found no file" in refused(tmp_path, index=weight_map(down_bias=place))
    text = refused(tmp_path, index={"weight_map": {place: "../x"}})
    assert text.startswith(f"{INDEX}: ")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff", b"{}", {"weight_map": []}, b'{"a":' * 100_000],
    ids=range(7),
)
def test_an_index_without_a_weight_map_is_refused(tmp_path, content) -> None:
    assert refused(tmp_path, index=content).startswith(f"{INDEX}: expected")


def test_a_folder_without_gpt_oss_experts_is_refused(tmp_path) -> None:
    hugging_face = name_of("gate_up_blocks", 0)
    expected = (
        f": expected gpt-oss MXFP4 experts ({hugging_face} or "
        "block.0.mlp.mlp1_weight.blocks), found 1 tensors and none of that name"
    )
    assert expected == refused(tmp_path, model={"other": torch.zeros(1)})


@fields
def test_a_missing_tensor_is_refused(tmp_path, field) -> None:
    rest = tensors()
    del rest[name_of(field)]
    expected = f": expected tensor {name_of(field)}, found no file with it"
    assert expected == refused(tmp_path, model=rest)


@fields
def test_a_tensor_that_only_the_index_knows_is_refused(tmp_path, field) -> None:
    rest = tensors()
    del rest[name_of(field)]
    expected = f"{MODEL}: expected tensor {name_of(field)}, found no such tensor"
    assert expected == refused(tmp_path, model=rest, index=weight_map())


@fields
def test_a_wrong_shape_is_refused(tmp_path, field) -> None:
    """One expert too many."""
    wrong = tensors()
    wrong[name_of(field)] = wrong[name_of(field)][[0, 1, 1]].clone()
    shape = list(SHAPES[field][0])
    expected = f"expected shape {shape} from config.json, found {[3, *shape[1:]]}"
    text = refused(tmp_path, model=wrong)
    assert f"{MODEL}: {name_of(field)}: {expected}" == text


@fields
@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e8m0fnu, torch.int64])
def test_a_wrong_dtype_is_refused(tmp_path, field, dtype) -> None:
    """E8M0 is what a scale is, and yet not how gpt-oss stores it."""
    wrong = tensors()
    wrong[name_of(field)] = torch.zeros(SHAPES[field][0], dtype=torch.uint8).to(dtype)
    wanted = {torch.uint8: "U8", torch.bfloat16: "BF16", None: "BF16 or F16 or F32"}
    text = refused(tmp_path, model=wrong)
    expected = f"{MODEL}: {name_of(field)}: expected dtype {wanted[SHAPES[field][1]]}"
    assert text.startswith(expected)


def test_a_tensor_in_two_shards_is_refused(tmp_path) -> None:
    text = refused(tmp_path, extra={name_of("down_bias"): torch.zeros(1)})
    expected = "expected each tensor once, found it in extra.safetensors as well"
    assert f"{MODEL}: {name_of('down_bias')}: {expected}" == text


@pytest.mark.parametrize("field", ["gate_up_scales", "down_scales"])
def test_a_scale_byte_255_is_named_by_expert_row_and_block(tmp_path, field) -> None:
    wrong = tensors()
    last_block = SHAPES[field][0][2] - 1
    wrong[name_of(field)][1, 7, last_block] = 255
    wrong[name_of(field)][1, 8] = 255
    expected = (
        f"{MODEL}: {name_of(field)}: expected scale bytes 0x00 to 0xfe, found 0xff "
        f"(NaN) at expert 1, row 7, block {last_block} and {last_block + 1} more"
    )
    assert expected == refused(tmp_path, model=wrong)


@pytest.mark.parametrize("index", [None, weight_map()], ids=["no index", "index"])
@pytest.mark.parametrize("kept", [0, 7, 8, 100, -1])
def test_a_truncated_file_is_refused(tmp_path, kept, index) -> None:
    text = refused(tmp_path, model=save(tensors())[:kept], index=index)
    assert text.startswith(f"{MODEL}: {WHOLE_FILE}")


def entry(start: int, stop: int, shape: tuple[int, ...] = (4,)) -> dict:
    """One tensor in a header."""
    return {"dtype": "U8", "shape": shape, "data_offsets": [start, stop]}


@pytest.mark.parametrize(
    ("header", "size"),
    [
        ({"a": entry(0, 4), "b": entry(2, 6)}, 6),
        ({"a\n": entry(0, 4), "b\n": entry(2, 6)}, 6),
        ({"a": entry(0, 4), "b": entry(8, 12)}, 12),
        ({"a": entry(0, 4)}, 9),
        ({"a": entry(0, 4, (5,))}, 4),
        ({"a": entry(0, 4, (2**62, 2**62))}, 4),
        ({"a": entry(4, 0)}, 4),
        ({"a": entry(0, 2**63)}, 4),
        ({"a": {"dtype": "U\n8"}}, 4),
        (b"[" * 10_000, 0),
        (b"\xff\xff", 0),
    ],
    ids=range(11),
)
def test_a_header_that_does_not_describe_its_data_is_refused(
    tmp_path, header, size
) -> None:
    """Overlap, gap, surplus, overflow, and what is no header at all."""
    text = refused(tmp_path, extra=shard(header, b"x" * size))
    assert text.startswith(f"extra.safetensors: {WHOLE_FILE}")


@pytest.mark.parametrize("name", [MODEL, INDEX])
def test_a_folder_in_place_of_a_file_is_refused(tmp_path, name) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(BadInput, match=f"{name}: expected"):
        read_all(write(tmp_path, {name: None}))
